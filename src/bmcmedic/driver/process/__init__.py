"""The driver as a program: its settings, its threads and signals, its start and its end."""
