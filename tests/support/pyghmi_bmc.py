"""A BMC made of pyghmi's `Bmc`: `python pyghmi_bmc.py ADDRESS PORT restarts|stays`."""

from __future__ import annotations

import os
import sys

from pyghmi.ipmi.bmc import Bmc


class ForeignBmc(Bmc):  # type: ignore[misc]
    """Power is on; a cold reset restarts the whole process, or does nothing."""

    restarts = False

    def cold_reset(self) -> int:
        if self.restarts:
            os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606 - no shell wanted
        return 0

    def get_power_state(self) -> str:
        return "on"


def main() -> None:
    bmc = ForeignBmc({"admin": "secret"}, port=int(sys.argv[2]), address=sys.argv[1])
    bmc.restarts = sys.argv[3] == "restarts"
    bmc.listen()


if __name__ == "__main__":
    main()
