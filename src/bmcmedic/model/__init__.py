"""The frozen records that pass from stage to stage. They have no behaviour but their JSON shape.

Each task of the program has a module of its own, so that a sweep does not load what `heal` needs.
"""
