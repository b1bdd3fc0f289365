"""Triage: what a host shows of its BMC, and the diagnosis that follows from it."""
