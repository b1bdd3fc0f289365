"""Expands TARGET arguments into BMCs, and finds their socket addresses."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bmcmedic.errors import ConfigurationError, NameNotResolved, reason_of
from bmcmedic.ipmi.constants import RMCP_PORT

TARGETS_MAX = 131_072
"""Most targets of one command, all its node sets together."""
RANGES_MAX = 16
"""Most ranges of one node set; each of them multiplies its size."""

_ALLOWED = re.compile(r"[A-Za-z0-9._\-\[\],/]+")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,253}[A-Za-z0-9_.])?")
_NUMERIC = re.compile(r"[0-9.]+")
_PORT = re.compile(r"(.*[^:]):([0-9]+)")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\](?::([0-9]+))?")
_RANGES = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18})(?:/([0-9]{1,9}))?)?")
_SYNTAX = (
    "a TARGET is host[:port], [ipv6]:port, or a node set such as bmc[001-400].oob or "
    "10.0.[0-3].[1-254]:623"
)


@dataclass(frozen=True, slots=True)
class Target:
    """One BMC; `name` is its name in results, as expanded, with the port as given."""

    name: str
    host: str
    port: int = RMCP_PORT


def parse_targets(arguments: Iterable[str]) -> list[Target]:
    """Expand TARGET arguments, each BMC once, in the order given.

    Raises ConfigurationError for an unreadable target, an empty set, and too many targets.
    """
    targets: dict[str, Target] = {}
    for argument in arguments:
        _add(argument, targets)
    if not targets:
        raise ConfigurationError(f"no target: the node set is empty; {_SYNTAX}")
    return list(targets.values())


def parse_targets_and_lists(arguments: Iterable[str], read: Callable[[str], str]) -> list[Target]:
    """Expand TARGET arguments as `parse_targets` does, and also lists: `@FILE`, and `-` for stdin.

    `read` returns the text of such a list. Each of its lines is a TARGET; blank lines, and what
    follows a `#`, are skipped.
    Raises ConfigurationError, with the line's number where a line of a list is wrong.
    """
    targets: dict[str, Target] = {}
    names: list[str] = []
    for argument in arguments:
        if argument != "-" and not argument.startswith("@"):
            _add(argument, targets)
            continue
        name = "standard input" if argument == "-" else argument[1:]
        if name in names:
            raise ConfigurationError(f"{argument!r} is given twice")
        names.append(name)
        for number, line in enumerate(read(argument).splitlines(), 1):
            text = line.partition("#")[0].strip()
            try:
                _add(text, targets)
            except ConfigurationError as error:
                raise ConfigurationError(f"{name}, line {number}: {error}") from None
    if not targets:
        source = f"{' and '.join(names)} list none" if names else "the node set is empty"
        raise ConfigurationError(f"no target: {source}; {_SYNTAX}")
    return list(targets.values())


def _add(argument: str, targets: dict[str, Target]) -> None:
    """Add the targets of one argument."""
    for part in _split(argument):
        for target in _expand(part, TARGETS_MAX - len(targets)):
            targets[target.name] = target
        if len(targets) > TARGETS_MAX:
            raise ConfigurationError(
                f"more than {TARGETS_MAX} targets; split them among several commands"
            )


def parse_target(argument: str) -> Target:
    """Return the target of a command that takes exactly one; raises ConfigurationError."""
    targets = parse_targets([argument])
    if len(targets) > 1:
        raise ConfigurationError(
            f"{argument!r} is {len(targets)} targets; this command takes exactly one"
        )
    return targets[0]


def resolve(target: Target) -> tuple[object, ...]:
    """Return the socket address of a target; the look-up blocks. Raises NameNotResolved."""
    literal = literal_address(target)
    if literal is not None:
        return literal
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = reason_of(error)
        raise NameNotResolved(
            f"host name {target.host!r} not resolved ({reason}); check the name and DNS"
        ) from None
    return found[0][4]


def literal_address(target: Target) -> tuple[str, int] | tuple[str, int, int, int] | None:
    """Return the socket address of a target that is an IP address; None for a host name."""
    try:
        socket.inet_pton(socket.AF_INET, target.host)
    except OSError:
        pass
    else:
        return target.host, target.port
    host, _, zone = target.host.partition("%")
    try:
        packed = socket.inet_pton(socket.AF_INET6, host)
    except OSError:
        return None
    try:
        scope = socket.if_nametoindex(zone) if zone else 0
    except OSError:
        raise NameNotResolved(f"no network interface {zone!r}") from None
    # The same spelling as the kernel's, which comes with each answer.
    return socket.inet_ntop(socket.AF_INET6, packed), target.port, 0, scope


def _split(argument: str) -> list[str]:
    """Split at the commas outside of brackets."""
    parts: list[str] = []
    is_open = False
    for piece in argument.split(","):
        if is_open:
            parts[-1] += "," + piece
        else:
            parts.append(piece)
        is_open = parts[-1].rfind("[") > parts[-1].rfind("]")
    return [part for part in parts if part]


def _expand(part: str, room: int) -> Iterable[Target]:
    ipv6 = _IPV6.fullmatch(part)
    if ipv6 is not None and ":" in ipv6[1]:
        return [_ipv6_target(part, ipv6[1], ipv6[2])]
    if part.count(":") > 1:
        return [_ipv6_target(part, part, None)]
    split = _PORT.fullmatch(part)
    nodes, port = (split[1], _port(part, split[2])) if split else (part, RMCP_PORT)
    suffix = f":{split[2]}" if split else ""
    if not _ALLOWED.fullmatch(nodes):
        raise ConfigurationError(f"cannot read target {part!r}; {_SYNTAX}")
    if "[" not in nodes and "]" not in nodes:
        return [_target(part, nodes, suffix, port)]
    return [_target(part, node, suffix, port) for node in _nodes(part, nodes, room)]


def _nodes(part: str, nodes: str, room: int) -> Iterable[str]:
    _check_count(part, nodes, room)
    # Only a node set needs ClusterShell: without it a probe of a plain host starts faster.
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    try:
        return list(NodeSet(nodes, resolver=RESOLVER_NOGROUP))
    except NodeSetException as error:
        raise ConfigurationError(f"cannot read target {part!r}: {error}; {_SYNTAX}") from None


def _check_count(part: str, nodes: str, room: int) -> None:
    """Refuse a node set that is too large, before a range of a thousand million is built."""
    if len(_RANGES.findall(nodes)) > RANGES_MAX:
        raise ConfigurationError(f"{part!r} has more than {RANGES_MAX} ranges; split the set")
    count = 1
    for ranges in _RANGES.findall(nodes):
        count *= sum(_range_count(part, piece) for piece in ranges.split(","))
    if count > room:
        raise ConfigurationError(
            f"{part!r} has {count} targets, but one command takes at most {TARGETS_MAX}; "
            "split the set"
        )


def _range_count(part: str, piece: str) -> int:
    match = _RANGE.fullmatch(piece)
    if match is None:
        raise ConfigurationError(
            f"cannot read target {part!r}: {piece!r} is not a range such as 7, 1-20 or 0-30/5"
        )
    first, last, step = match[1], match[2] or match[1], match[3] or "1"
    return max(0, int(last) - int(first)) // max(1, int(step)) + 1


def _target(part: str, host: str, suffix: str, port: int) -> Target:
    if _NUMERIC.fullmatch(host):
        try:
            socket.inet_pton(socket.AF_INET, host)
        except OSError:
            raise ConfigurationError(
                f"cannot read target {part!r}: {host!r} is not an IPv4 address"
            ) from None
    elif not _HOST.fullmatch(host) or ".." in host:
        raise ConfigurationError(f"cannot read target {part!r}: {host!r} is not a host name")
    return Target(host + suffix, host, port)


def _ipv6_target(part: str, host: str, port: str | None) -> Target:
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise ConfigurationError(f"cannot read target {part!r}: {error}; {_SYNTAX}") from None
    return Target(part, host, RMCP_PORT if port is None else _port(part, port))


def _port(part: str, digits: str) -> int:
    if len(digits) > 5 or not 1 <= int(digits) <= 65535:
        raise ConfigurationError(f"cannot read target {part!r}: a port is 1 to 65535")
    return int(digits)
