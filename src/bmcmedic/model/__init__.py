"""The frozen records that flow from stage to stage; no behaviour but their JSON shapes.

A module for each thing the program does, so that a sweep does not load what heals.
"""
