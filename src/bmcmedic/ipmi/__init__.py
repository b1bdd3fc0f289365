"""IPMI 2.0 without I/O: bytes in, events out; time and random bytes are arguments."""
