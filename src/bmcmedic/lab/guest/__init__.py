"""A real Linux kernel in QEMU with this machine's Python: its files, boot and commands."""
