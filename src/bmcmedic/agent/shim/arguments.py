"""The shim's policy for a command line of ipmitool: does it go through the proxy, and is it a read.

Only commands that are known to be safe go through the proxy. Every other call is left to the real
ipmitool, unchanged. The grammar of the arguments stands in `host.client.ipmitool_arguments`. Like
the whole shim, this module imports nothing that takes time to load.
"""

from __future__ import annotations

from bmcmedic.host.client.ipmitool_arguments import (
    DESCRIPTIONS,
    ParsedArguments,
    parse,
    prompts_for_password,
)

_PASSED_ON = "vcgsZmtblSOo"
"""Options that mean the same through the proxy, so the shim passes them on."""
_DROPPED = "IdUPfEKkyACLpNRe46"
"""Options that ipmitool ignores in-band, so the shim drops them and gives the proxy's own."""

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
"""Subcommands that the shim leaves to the real ipmitool, by their command."""
_MANY_REQUESTS = frozenset(
    ("sdr", "sensor", "sel", "fru", "dcmi", "delloem", "user", "pef", "picmg", "session", "lan")
)
"""Commands that send a BMC many requests, and therefore have the long deadline."""

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
"""How the commands begin that only read, by their first word. `()` is the first word alone."""


class ShimPlan:
    """What the shim does with a command line."""

    __slots__ = ("arguments", "is_long", "is_read", "may_be_shared", "reason_excluded")

    def __init__(self, reason_excluded: str = "") -> None:
        self.reason_excluded = reason_excluded
        """Why the real ipmitool runs as it was called; empty if the call goes through the proxy."""
        self.arguments: list[str] = []
        """The real ipmitool's arguments, after those that name the proxy."""
        self.is_read = False
        """Whether the command changes nothing."""
        self.is_long = False
        """Whether the command sends many requests, and has the long deadline."""
        self.may_be_shared = False
        """Whether another caller of the same command at the same time may have the output."""


def plan_call(arguments: list[str]) -> ShimPlan:
    """Decide what the shim does with ipmitool's arguments."""
    parsed = parse(arguments)
    words = parsed.words
    reason = parsed.error or _reason_excluded(parsed)
    if reason:
        return ShimPlan(reason)
    plan = ShimPlan()
    for option in parsed.options:
        if option.letter in _PASSED_ON:
            plan.arguments.append("-" + option.letter)
            if option.value is not None:
                plan.arguments.append(option.value)
    if any(word.startswith("-") for word in words):
        plan.arguments.append("--")
    plan.arguments += words
    plan.is_read = _is_read([word.lower() for word in words])
    plan.is_long = words[0].lower() in _MANY_REQUESTS
    # -S and -O name a file, and two callers may have different files under one name.
    plan.may_be_shared = plan.is_read and not any(each.letter in "SO" for each in parsed.options)
    return plan


def _reason_excluded(parsed: ParsedArguments) -> str:
    for option in parsed.options:
        letter, value = option.letter, option.value
        if letter == "I" and value != "open":
            return f"-I {value}: not this host's own interface"
        if letter == "d" and (value or "").lstrip("0"):
            return f"-d {value}: another BMC of this host"
        if letter not in _PASSED_ON and letter not in _DROPPED:
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
        return "it prompts for a password"
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
