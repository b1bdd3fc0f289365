"""The program that the script in ipmitool's place runs: `python -IS start.py REAL ARGUMENT…`.

It runs without site-packages, because searching them takes time at each start. If anything fails
here, the real ipmitool runs.
"""

import os
import sys


def start(real: str, arguments: list[str]) -> None:
    """Run the shim, or become the real ipmitool if the shim cannot be imported."""
    try:
        sys.path.insert(0, __file__.rpartition("/bmcmedic/agent/")[0])
        from bmcmedic.agent.shim.main import run
    except Exception:  # noqa: BLE001 - the package is half removed, or half upgraded
        import signal

        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, ipmitool must not
            signal.signal(number, signal.SIG_DFL)
        os.execv(real, ["ipmitool", *arguments])  # noqa: S606 - it is what was called
    status = run(arguments, real)
    sys.stderr.flush()
    os._exit(status)  # an orderly exit takes milliseconds, and there is nothing to clean up


if __name__ == "__main__":
    start(sys.argv[1], sys.argv[2:])
