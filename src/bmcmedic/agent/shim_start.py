"""The former place of `shim/start.py`, for scripts that `shim install` wrote before it moved.

An upgrade of the package does not rewrite the script in ipmitool's place. If that script finds no
`shim_start.py`, it runs the real ipmitool directly, without the proxy and without a deadline.
`bmcmedic shim install` writes a script that names `shim/start.py`.
"""

import os
import sys


def _start(real: str, arguments: list[str]) -> None:
    try:
        sys.path.insert(0, __file__.rpartition("/bmcmedic/agent/")[0])
        from bmcmedic.agent.shim.start import start
    except Exception:  # noqa: BLE001 - the package is half removed, or half upgraded
        import signal

        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, ipmitool must not
            signal.signal(number, signal.SIG_DFL)
        os.execv(real, ["ipmitool", *arguments])  # noqa: S606 - it is what was called
    start(real, arguments)


if __name__ == "__main__":
    _start(sys.argv[1], sys.argv[2:])
