"""The programs that ask a BMC, and what their arguments say: in-band or not, and which are secret.

The list names what is safe to judge. A daemon (`bmc-watchdog`, `ipmievd`, `ipmiseld`) waits for
ever because that is its work, and at a console (`ipmiconsole`) somebody sits: they are not on it.
"""

import re

from bmcmedic.host.typed import Iterator, List, NamedTuple, Optional


class Syntax(NamedTuple):
    """How a family of programs reads its arguments."""

    with_value: str
    """The letters of the options that take a value."""
    secret: str
    """Those of them whose value is a secret."""


class Option(NamedTuple):
    """A one-letter option that takes a value, as it stands among the arguments."""

    letter: str
    value: str
    place: int
    """The argument in which the value stands."""
    start: int
    """Where in that argument it begins."""


IPMITOOL = Syntax("ACDHILNOPRSTUbBdefklmoptyz", "Pky")
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
"""Clients that ask, get their answer and end: one that does not end is what triage looks for."""

_NAMES = "|".join(sorted(CLIENTS, key=len, reverse=True))
# A shim puts the real one aside under a longer name, and packages replace what is running.
_LONGER_NAME = rf"({_NAMES})(?:\.[^/]*|-[0-9][^/]*)?(?: \(deleted\))?\Z"
_COMM_CHARACTERS_MAX = 15

_IN_BAND_INTERFACES = frozenset(["open", "imb", "free"])

_LEFT_ALONE = {
    "sol": "a serial console",
    "tsol": "a serial console",
    "isol": "a serial console",
    "shell": "a prompt that somebody may sit at",
    "exec": "a script of commands that are not known",
    "getevt": "waits for events, and means to",
    "getevent": "waits for events, and means to",
    "hpm": "a firmware update",
    "fwum": "a firmware update",
    "ime": "a firmware update",
    "ekanalyzer": "a firmware update",
    "update": "a firmware update",
    "upgrade": "a firmware update",
    "vflash": "a firmware update",
    "write": "writes to a memory of the BMC",
    "edit": "writes to a memory of the BMC",
    "upgekey": "writes to a memory of the BMC",
}
"""Words that make a client one to be left alone, wherever they stand among its arguments."""


def program_of(executable: str) -> Optional[str]:
    """The client that an executable is, by what /proc/PID/exe says; None: not on the list."""
    name = executable[executable.rfind("/") + 1 :]
    if name in CLIENTS:
        return name
    if "ipmi" not in name and "bmc" not in name:
        return None  # as nearly all, and the pattern is slow to say so
    found = re.match(_LONGER_NAME, name)
    return found.group(1) if found else None


def looks_like(comm: str) -> Optional[str]:
    """The client that a process calls itself, which proves nothing: anybody can."""
    for program in CLIENTS:
        if comm == program[:_COMM_CHARACTERS_MAX]:
            return program
    return None


def why_left_alone(program: str, argv: List[str]) -> Optional[str]:
    """Why a client must not be judged by its waiting; None: it asks this host's BMC and ends."""
    remote = _remote(CLIENTS[program], argv)
    if remote is not None:
        return remote
    for word in argv[1:]:
        reason = _LEFT_ALONE.get(word.lower())
        if reason is not None:
            return f"`{word}`: {reason}"
    return None


def _remote(syntax: Syntax, argv: List[str]) -> Optional[str]:
    for letter, value, _, _ in options(syntax, argv):
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
        # Long options may be cut short, as long as they stay unique.
        if len(name) > 4 and "--hostname".startswith(name) and value != "localhost":
            return "`--hostname`: asks another machine's BMC"
        is_driver = name.startswith("--driver-t") and "--driver-type".startswith(name)
        if is_driver and value.lower().startswith("lan"):
            return f"`--driver-type={value:.40}`: not over this host's interface"
    return None


def options(syntax: Syntax, argv: List[str]) -> Iterator[Option]:
    """The one-letter options that have a value, as getopt finds them: anywhere among the words."""
    index = 1
    while index < len(argv):
        word = argv[index]
        if len(word) > 1 and word[0] == "-" and word[1] != "-":
            for place, letter in enumerate(word[1:], 2):
                if letter not in syntax.with_value:
                    continue
                if place < len(word):
                    yield Option(letter, word[place:], index, place)
                elif index + 1 < len(argv):
                    index += 1
                    yield Option(letter, argv[index], index, 0)
                break
        index += 1
