"""The loop that watches the host and relieves it, and whether it may."""
