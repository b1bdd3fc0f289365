"""Triage and relief on a sick host, from /proc and /sys alone.

This package is also the one-file program that runs on hosts where nothing of ours is installed: the
standard library only, the syntax and library of Python 3.6, and it imports nothing but itself.
"""
