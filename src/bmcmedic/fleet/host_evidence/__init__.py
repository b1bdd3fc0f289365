"""What the host itself tells: its symptoms, its marks of a restart, and the verdict on it."""
