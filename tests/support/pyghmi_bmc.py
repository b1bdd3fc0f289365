"""A BMC made of pyghmi's `Bmc`: `python pyghmi_bmc.py ADDRESS PORT restarts|stays|dies`."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from pyghmi.ipmi.bmc import Bmc
from pyghmi.ipmi.private.session import Session

BOOT_S = 1.0
"""How long a restart takes, in seconds; datagrams that arrive meanwhile are lost."""

_BOOTING = "PYGHMI_BMC_BOOTING"


class ForeignBmc(Bmc):  # type: ignore[misc]
    """A BMC whose power is on; it prints each request, and restarts on a reset, or does not."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__({"admin": "secret"}, port=options.port, address=options.address)
        if options.kg is not None:
            self.set_kg(options.kg)
        self._options = options
        self.is_told_to_restart = False

    def cold_reset(self) -> int:
        self.is_told_to_restart = self._options.mode != "stays"
        return 0

    def get_power_state(self) -> str:
        return "on"

    def get_system_guid(self) -> uuid.UUID:
        if self._options.guid is None:
            raise NotImplementedError
        return uuid.UUID(self._options.guid)

    def handle_raw_request(self, request: dict[str, Any], session: object) -> None:
        if self._options.log is not None:
            with self._options.log.open("a") as log:
                log.write(f"{request['netfn']:02x}/{request['command']:02x}\n")
        super().handle_raw_request(request, session)


def boot(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind((address, port))
        until = time.monotonic() + BOOT_S
        while (left_s := until - time.monotonic()) > 0:
            mute.settimeout(left_s)
            with contextlib.suppress(TimeoutError):
                mute.recv(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("mode", choices=("restarts", "stays", "dies"))
    parser.add_argument("--guid")
    parser.add_argument("--kg")
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    if os.environ.pop(_BOOTING, None):
        boot(options.address, options.port)
    bmc = ForeignBmc(options)
    while not bmc.is_told_to_restart:
        Session.wait_for_rsp(timeout=30)
    # The answer has left. A new program has neither the sessions nor the sockets of the old one.
    if options.mode == "restarts":
        os.execve(  # noqa: S606 - no shell wanted
            sys.executable, [sys.executable, *sys.argv], os.environ | {_BOOTING: "1"}
        )


if __name__ == "__main__":
    main()
