"""The programs that ask a BMC, and what their arguments mean: in-band or not, and which are secret.

The list holds the programs that are safe to judge. It leaves out daemons (`bmc-watchdog`,
`ipmievd`, `ipmiseld`), which wait for ever because that is their work, and consoles
(`ipmiconsole`), at which a person sits.
"""

import re

from bmcmedic.host.client import ipmitool_arguments
from bmcmedic.host.client.ipmitool_arguments import DESCRIPTIONS
from bmcmedic.host.typed import Iterator, List, NamedTuple, Optional


class Syntax(NamedTuple):
    """How a family of programs reads its arguments."""

    with_value: str
    """The letters of the options that take a value."""
    secret: str
    """The letters of those options whose value is a secret."""


IPMITOOL = Syntax(ipmitool_arguments.WITH_VALUE, ipmitool_arguments.SECRET)
FREEIPMI = Syntax("DIWahklpu", "kp")
IPMIUTIL = Syntax("FJNPRTUVZ", "PR")

CLIENTS = {
    "ipmitool": IPMITOOL,
    "bmc-config": FREEIPMI,
    "bmc-device": FREEIPMI,
    "bmc-info": FREEIPMI,
    "ipmi-chassis": FREEIPMI,
    "ipmi-chassis-config": FREEIPMI,
    "ipmi-config": FREEIPMI,
    "ipmi-dcmi": FREEIPMI,
    "ipmi-fru": FREEIPMI,
    "ipmi-oem": FREEIPMI,
    "ipmi-pef-config": FREEIPMI,
    "ipmi-raw": FREEIPMI,
    "ipmi-sel": FREEIPMI,
    "ipmi-sensors": FREEIPMI,
    "ipmi-sensors-config": FREEIPMI,
    "ipmimonitoring": FREEIPMI,
    "ipmiutil": IPMIUTIL,
}
"""Programs that ask, get an answer and end. Triage looks for those that do not end."""

_NAMES = "|".join(sorted(CLIENTS, key=len, reverse=True))
_KINDS = "xcat|real|orig|original|bin|dist|distrib|wrapped|static|upstream"
# A shim or a diversion moves the real program to a longer name, xCAT and Nix ship it under one of
# their own, libtool runs it as `lt-NAME`, and a package replaces a running program.
_LONGER_NAME = (
    rf"(?:lt-|\.)?({_NAMES})(?:\.[^/]*|[-_]v?[0-9][^/]*|[-_](?:{_KINDS})(?:[-._][0-9][^/]*)?)?"
    r"(?: \(deleted\))?\Z"
)
_COMM_CHARACTERS_MAX = 15
"""Longest name that the kernel keeps of a program, in characters."""

_IN_BAND_INTERFACES = frozenset(["open", "imb", "free"])

_EXCLUDED = frozenset(
    ("sol", "tsol", "isol", "shell", "exec", "getevt", "getevent", "hpm", "fwum", "ime",
     "ekanalyzer", "update", "upgrade", "vflash", "write", "edit", "upgekey")
)  # fmt: skip
"""Words that exclude a client from judgement, wherever they stand among its arguments."""


def program_of(executable: str) -> Optional[str]:
    """Return the client program that an executable is; None: it is not on the list.

    `executable`: the target of /proc/PID/exe.
    """
    name = executable[executable.rfind("/") + 1 :]
    if name in CLIENTS:
        return name
    if "ipmi" not in name and "bmc" not in name:
        return None  # nearly all executables; the pattern takes long to reject them
    found = re.match(_LONGER_NAME, name)
    return found.group(1) if found else None


def looks_like(comm: str) -> Optional[str]:
    """Return the client that a process's name suggests. Any program can set that name."""
    for program in CLIENTS:
        if comm == program[:_COMM_CHARACTERS_MAX]:
            return program
    return program_of(comm)


def why_excluded(program: str, argv: List[str]) -> Optional[str]:
    """Return why a client's waiting proves nothing; None: it asks this host's BMC and ends."""
    remote = _remote(CLIENTS[program], argv)
    if remote is not None:
        return remote
    for word in argv[1:]:
        if word.lower() in _EXCLUDED:
            return f"`{word}`: {DESCRIPTIONS[word.lower()]}"
    return None


def _remote(syntax: Syntax, argv: List[str]) -> Optional[str]:
    for option in options(syntax, argv):
        letter, value = option.letter, option.value
        if syntax is IPMITOOL and letter == "I" and value not in _IN_BAND_INTERFACES:
            return f"`-I {value:.40}`: not over this host's interface"
        if syntax is IPMITOOL and letter == "H":
            return "`-H`: asks another machine's BMC"
        if syntax is FREEIPMI and letter == "h" and value != "localhost":
            return "`-h`: asks another machine's BMC"
        if syntax is FREEIPMI and letter == "D" and value.lower().startswith("lan"):
            return f"`-D {value:.40}`: not over this host's interface"
        if syntax is IPMIUTIL and letter in "NF" and value not in ("localhost", "open"):
            return f"`-{letter}`: not over this host's interface"
    if syntax is not FREEIPMI:
        return None
    for index, word in enumerate(argv[1:], 1):
        name, has_value, value = word.partition("=")
        if not has_value:
            value = argv[index + 1] if index + 1 < len(argv) else ""
        # A long option may be cut short as long as it stays unique.
        if len(name) > 4 and "--hostname".startswith(name) and value != "localhost":
            return "`--hostname`: asks another machine's BMC"
        is_driver = name.startswith("--driver-t") and "--driver-type".startswith(name)
        if is_driver and value.lower().startswith("lan"):
            return f"`--driver-type={value:.40}`: not over this host's interface"
    return None


class ValueOption(NamedTuple):
    """A one-letter option with a value, and where that value stands among the arguments."""

    letter: str
    value: str
    position: int
    """The index of the argument that holds the value."""
    start: int
    """The index of the value's first character in that argument."""


def options(syntax: Syntax, argv: List[str]) -> Iterator[ValueOption]:
    """Find the one-letter options that have a value, anywhere among the arguments."""
    for found in ipmitool_arguments.parse(argv, 1, syntax.with_value, flags=None).options:
        if found.value is not None:
            yield ValueOption(found.letter, found.value, found.position, found.start)
