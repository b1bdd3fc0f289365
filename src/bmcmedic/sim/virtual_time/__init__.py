"""Threads, CPUs, locks and a KCS interface in virtual time."""
