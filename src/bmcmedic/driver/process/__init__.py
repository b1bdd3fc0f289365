"""The driver as a program: its settings, its threads and signals, and how it starts and ends."""
