"""Keeps hosts alive through a sick BMC, and heals the BMC."""

__version__ = "0.2.0"
