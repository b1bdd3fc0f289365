"""What a command line of ipmitool means: whether it goes through the door, and what it does.

A list of what is known to be safe: anything else is left to the real ipmitool as it stands. Loads
nothing that takes time, as everything that the shim does.
"""

from __future__ import annotations

from bmcmedic.host.client.ipmitool_arguments import (
    DESCRIPTIONS,
    ParsedArguments,
    parse,
    prompts_for_password,
)

_KEPT = "vcgsZmtblSOo"
"""Mean the same over the door."""
_DROPPED = "IdUPfEKkyACLpNRe46"
"""Mean nothing in-band, where ipmitool passes over them; the door has its own."""

_EXCLUDED = frozenset(
    ("shell", "exec", "set", "sol", "isol", "tsol", "hpm", "fwum", "ime", "ekanalyzer", "help",
     "echo", "quit", "exit")
)  # fmt: skip
"""Commands that the shim leaves to the real ipmitool."""
_EXCLUDED_SUBCOMMANDS = {
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
    parsed = parse(arguments)
    words = parsed.words
    why = parsed.error or _why_left_alone(parsed)
    if why:
        return ShimPlan(why)
    plan = ShimPlan()
    for option in parsed.options:
        if option.letter in _KEPT:
            plan.arguments.append("-" + option.letter)
            if option.value is not None:
                plan.arguments.append(option.value)
    if any(word.startswith("-") for word in words):
        plan.arguments.append("--")
    plan.arguments += words
    plan.is_read = _is_read([word.lower() for word in words])
    plan.is_long = words[0].lower() in _LONG
    # A file, which each may have another of under the same name.
    plan.may_be_shared = plan.is_read and not any(each.letter in "SO" for each in parsed.options)
    return plan


def _why_left_alone(parsed: ParsedArguments) -> str:
    for option in parsed.options:
        letter, value = option.letter, option.value
        if letter == "I" and value != "open":
            return f"-I {value}: not this host's own interface"
        if letter == "d" and (value or "").lstrip("0"):
            return f"-d {value}: another BMC of this host"
        if letter not in _KEPT and letter not in _DROPPED:
            return f"-{letter}"
    if not parsed.words:
        return "no command"
    lowered = [word.lower() for word in parsed.words]
    if lowered[0] in _EXCLUDED:
        return f"{lowered[0]}: {DESCRIPTIONS[lowered[0]]}"
    for word in _EXCLUDED_SUBCOMMANDS.get(lowered[0], ()):
        if word in lowered[1:]:
            return f"{lowered[0]} {word}"
    if "help" in lowered[1:]:
        return f"help: {DESCRIPTIONS['help']}"
    if prompts_for_password(lowered):
        return "it asks for a password"
    return ""


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
    from bmcmedic.driver.read_commands import READS

    return (netfn, command) in READS
