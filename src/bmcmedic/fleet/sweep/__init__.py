"""Sweeps: many BMCs are asked at once whether they answer."""
