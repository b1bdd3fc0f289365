"""The first incident, the pile-up, on a real Linux kernel: its scenarios, their run and record."""
