"""OpenIPMI's `ipmi_sim`, with a configuration written here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.foreign import serving
from tests.support.ports import unused_port

GUID = "a123456789abcdefa123456789abcdef"

_LAN = """name "foreign"
set_working_mc 0x20
startlan 1
  addr 127.0.0.1 {port}
  priv_limit admin
  allowed_auths_callback none md2 md5 straight
  allowed_auths_user none md2 md5 straight
  allowed_auths_operator none md2 md5 straight
  allowed_auths_admin none md2 md5 straight
  guid {guid}
{key}endlan
user 2 true "admin" "secret" admin 10 none md2 md5 straight
user 3 true "long" "nineteen-bytes-long" admin 10 none md2 md5 straight
"""
_COMMANDS = """mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
{more}mc_enable 0x20
"""
_SESSION_STARTED = re.compile(rb"Session started, max priv (\d+)")


@dataclass(frozen=True)
class IpmiSim:
    """A running `ipmi_sim`."""

    target: str
    output: Path

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.target.partition(":")
        return host, int(port)

    def privileges(self) -> list[int]:
        """The privilege level of every session that it started, as it logs them."""
        return [int(level) for level in _SESSION_STARTED.findall(self.output.read_bytes())]


@contextlib.contextmanager
def ipmi_sim(
    directory: Path, port: int | None = None, *, kg: str | None = None, commands: str = ""
) -> Iterator[IpmiSim]:
    """Run `ipmi_sim` until the block ends, on a free port unless one is given.

    It can serve many BMCs in one process, but crashes on a Get Chassis Status to any but the first.
    The limits of its users and channels do not limit the sessions that it starts. Secrets in its
    configuration have 19 characters at most. `commands` are lines of its configuration for the BMC,
    such as sensors.
    """
    port = port or unused_port()
    (directory / "state").mkdir(parents=True)
    key = "" if kg is None else f'  bmc_key "{kg}"\n'
    (directory / "lan.conf").write_text(_LAN.format(port=port, guid=GUID, key=key))
    (directory / "sim.emu").write_text(_COMMANDS.format(more=commands))
    # With -n it would log nothing.
    arguments = ["ipmi_sim", "-p", "-c", "lan.conf", "-f", "sim.emu", "-s", "state"]
    with serving(arguments, port, directory) as output:
        yield IpmiSim(f"127.0.0.1:{port}", output)
