"""The first incident, the pile-up, on a real Linux kernel: the scenarios and what they show."""
