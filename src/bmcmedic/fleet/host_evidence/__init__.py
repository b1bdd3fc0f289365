"""What the host itself reports: its symptoms, its marks of a restart, and the verdict on it."""
