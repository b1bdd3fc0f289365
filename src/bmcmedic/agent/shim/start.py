"""What the script in ipmitool's place runs: `python -IS shim_start.py REAL ARGUMENT…`.

Without site-packages, which would have to be searched at each start; and whatever fails here, the
real ipmitool runs.
"""

import os
import sys


def _start(real: str, arguments: list[str]) -> None:
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
    os._exit(status)  # there is nothing to tidy up, and it takes milliseconds


if __name__ == "__main__":
    _start(sys.argv[1], sys.argv[2:])
