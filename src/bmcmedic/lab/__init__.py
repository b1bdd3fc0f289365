"""The two incidents, reproduced in virtual time and on a real Linux kernel in QEMU."""
