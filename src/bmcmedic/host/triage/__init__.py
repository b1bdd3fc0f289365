"""Triage: what the host shows of its BMC, and what follows from it."""
