"""A real Linux kernel in QEMU with our Python in it: how it is built, booted and talked to."""
