"""Simulated BMCs and their hosts, which get sick the way real ones do."""
