"""What every test shares: how hypothesis runs."""

from __future__ import annotations

from hypothesis import settings

# A machine that is busy is no defect, so no example has a time limit. A failure prints the line
# that reproduces it.
settings.register_profile("bmcmedic", deadline=None, print_blob=True)
settings.load_profile("bmcmedic")
