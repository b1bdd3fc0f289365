"""Triage and relief on a sick host, from /proc and /sys alone.

This package is also the one-file program for hosts on which bmcmedic is not installed. So it
imports nothing but itself and the standard library, and keeps to the syntax and library of Python
3.6.
"""
