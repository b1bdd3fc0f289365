"""What a command line of ipmitool means: whether it goes through the door, and what it does.

A list of what is known to be safe: anything else is left to the real ipmitool as it stands. Loads
nothing that takes time, as everything that the shim does.
"""

from __future__ import annotations

WITH_VALUE = "IHdPfUpCLAtTmzSlbBekyORND"
FLAGS = "46hVvcgsEKYaoZ"
"""ipmitool 1.8.19's own (`o` takes a value as well)."""

_KEPT = "vcgsZmtblSOo"
"""Mean the same over the door."""
_DROPPED = "IdUPfEKkyACLpNRe46"
"""Mean nothing in-band, where ipmitool passes over them; the door has its own."""

_LEFT_ALONE = {
    "shell": "somebody may sit at it",
    "exec": "its commands are not known",
    "set": "it is for shell and exec",
    "sol": "a serial console",
    "isol": "a serial console",
    "tsol": "a serial console",
    "hpm": "a firmware update",
    "fwum": "a firmware update",
    "ime": "a firmware update",
    "ekanalyzer": "a firmware update",
    "help": "it asks nothing",
    "echo": "it asks nothing",
    "quit": "it asks nothing",
    "exit": "it asks nothing",
}
_LEFT_ALONE_WITHIN = {
    "fru": ("write", "edit", "upgekey"),
    "delloem": ("vflash",),
    "sunoem": ("cli", "sshkey", "sync", "getfile"),
    "nm": ("help",),
    "dcmi": ("asset_tag_set",),
}
_LONG = frozenset(
    ("sdr", "sensor", "sel", "fru", "dcmi", "delloem", "user", "pef", "picmg", "session", "lan")
)
"""Ask a BMC very many things."""

_READS = {
    "mc": (("info",), ("guid",), ("selftest",), ("getenables",), ("watchdog", "get")),
    "chassis": (
        ("status",), ("power", "status"), ("restart_cause",), ("poh",), ("policy", "list"),
        ("bootparam", "get"), ("selftest",),
    ),
    "power": (("status",),),
    "sdr": ((), ("list",), ("elist",), ("info",), ("type",), ("get",), ("entity",)),
    "sensor": ((), ("list",), ("get",)),
    "sel": ((), ("info",), ("list",), ("elist",), ("get",), ("time", "get")),
    "fru": ((), ("print",), ("list",)),
    "lan": (("print",), ("stats", "get"), ("alert", "print")),
    "user": (("list",), ("summary",)),
    "channel": (("info",), ("authcap",), ("getaccess",), ("getciphers",)),
    "pef": ((), ("info",), ("status",), ("list",), ("policy",)),
    "dcmi": (("power", "reading"), ("power", "get_limit"), ("sensors",), ("discover",),
             ("get_temp_reading",), ("get_mc_id_string",), ("asset_tag",)),
}  # fmt: skip
"""By their first word, how the commands begin that change nothing. `()` is the first word alone."""


class ShimPlan:
    """What is to be done with a command line."""

    __slots__ = ("arguments", "is_long", "is_read", "left_alone", "may_be_shared")

    def __init__(self, left_alone: str = "") -> None:
        self.left_alone = left_alone
        """Why it is the real ipmitool's as it stands; empty: it goes through the door."""
        self.arguments: list[str] = []
        """For the real one, after those that say where the door is."""
        self.is_read = False
        self.is_long = False
        self.may_be_shared = False
        """Whether who asks the same at the same time may have its output."""


def understand(arguments: list[str]) -> ShimPlan:
    """Read what stands after `ipmitool`."""
    parsed = _getopt(arguments)
    if parsed is None:
        return ShimPlan("an option that is not known")
    options, words = parsed
    why = _why_left_alone(options, words)
    if why:
        return ShimPlan(why)
    plan = ShimPlan()
    for letter, value in options:
        if letter in _KEPT:
            plan.arguments.append("-" + letter)
            if value is not None:
                plan.arguments.append(value)
    if any(word.startswith("-") for word in words):
        plan.arguments.append("--")
    plan.arguments += words
    plan.is_read = _is_read([word.lower() for word in words])
    plan.is_long = words[0].lower() in _LONG
    # A file, which each may have another of under the same name.
    plan.may_be_shared = plan.is_read and not any(letter in "SO" for letter, _ in options)
    return plan


def _getopt(arguments: list[str]) -> tuple[list[tuple[str, str | None]], list[str]] | None:
    """Options and words as GNU getopt tells them apart; None: not understood."""
    options: list[tuple[str, str | None]] = []
    words: list[str] = []
    index = 0
    while index < len(arguments):
        word = arguments[index]
        index += 1
        if word == "--":
            words += arguments[index:]
            break
        if len(word) < 2 or word[0] != "-":
            words.append(word)
            continue
        place = 1
        while place < len(word):
            letter = word[place]
            place += 1
            if letter in WITH_VALUE or letter == "o":
                if place < len(word):
                    value = word[place:]
                elif index < len(arguments):
                    value = arguments[index]
                    index += 1
                else:
                    return None
                options.append((letter, value))
                break
            if letter not in FLAGS:
                return None
            options.append((letter, None))
    return options, words


def _why_left_alone(options: list[tuple[str, str | None]], words: list[str]) -> str:
    for letter, value in options:
        if letter == "I" and value != "open":
            return f"-I {value}: not this host's own interface"
        if letter == "d" and (value or "").lstrip("0"):
            return f"-d {value}: another BMC of this host"
        if letter not in _KEPT and letter not in _DROPPED:
            return f"-{letter}"
    if not words:
        return "no command"
    lowered = [word.lower() for word in words]
    if lowered[0] in _LEFT_ALONE:
        return f"{lowered[0]}: {_LEFT_ALONE[lowered[0]]}"
    for word in _LEFT_ALONE_WITHIN.get(lowered[0], ()):
        if word in lowered[1:]:
            return f"{lowered[0]} {word}"
    if "help" in lowered[1:]:
        return "help: it asks nothing"
    if _prompts(lowered):
        return "it asks for a password"
    return ""


def _prompts(words: list[str]) -> bool:
    """Whether it wants a terminal to read a password from."""
    if words[:3] == ["user", "set", "password"]:
        return len(words) < 5
    if words[:2] == ["user", "test"]:
        return len(words) < 5
    return words[:2] == ["lan", "set"] and words[3:] == ["password"]


def _is_read(words: list[str]) -> bool:
    first = "mc" if words[0] == "bmc" else words[0]
    if first == "raw":
        return _is_raw_read(words[1:])
    rest = tuple(words[1:])
    for begins in _READS.get(first, ()):
        if begins == rest or (begins and rest[: len(begins)] == begins):
            return True
    return False


def _is_raw_read(words: list[str]) -> bool:
    try:
        netfn, command = int(words[0], 0), int(words[1], 0)
    except (IndexError, ValueError):
        return False
    from bmcmedic.driver.reads import READS

    return (netfn, command) in READS
