"""The file that stops every action of this program on a host, and nothing else on the host."""

import errno
import os

from bmcmedic.host.typed import Optional

KILL_SWITCH = "/etc/bmcmedic/disabled"


def why_disabled(path: str = KILL_SWITCH) -> Optional[str]:
    """Return why nothing may be done on this host; None: it is allowed.

    Anything at the path counts, and so does a path that cannot be read.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        return f"{path} cannot be read: {error.strerror}"
    return f"{path} exists"
