"""The file that stops every action of ours on a host, and nothing else of the host."""

import errno
import os

from bmcmedic.host.typed import Optional

KILL_SWITCH = "/etc/bmcmedic/disabled"


def why_disabled(path: str = KILL_SWITCH) -> Optional[str]:
    """Why nothing may be done on this host; None: it may.

    Whatever lies at the path counts, and what cannot be told from it.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        return f"{path} cannot be looked at: {error.strerror}"
    return f"{path} exists"
