"""Build `bmcmedic-triage.pyz`: triage and relief in one file, for hosts without bmcmedic.

    .venv/bin/python tools/build_pyz.py dist/bmcmedic-triage.pyz

`bmcmedic triage --print-pyz` prints the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bmcmedic.host.pyz import script, sources

__all__ = ["script", "sources"]


def main() -> None:
    """Write the file that is named on the command line."""
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(script(), encoding="utf-8")
    new.chmod(0o755)
    new.rename(path)


if __name__ == "__main__":
    main()
