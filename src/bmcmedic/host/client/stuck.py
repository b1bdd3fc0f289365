"""What a stuck client is, by evidence: never by its name, and never by its age alone.

`Client.of` finds a client and marks how far it has come; `Look.at` looks closely some seconds
later, and `judge` compares the two. Who acts on a verdict holds the process (`Tree.hold`), looks
(`Look.at`) and judges again, and then acts through the same hold: the pid may have become another's
meanwhile.
"""

import re
from enum import Enum
from functools import lru_cache

from bmcmedic.host.client.programs import looks_like, program_of, why_left_alone
from bmcmedic.host.client.redact import redacted
from bmcmedic.host.kernel.cpu_clocks import SCHED_BYTES_MAX, clocks_s, turn_at_s
from bmcmedic.host.kernel.proc import (
    Gone,
    Process,
    ProcessIdentity,
    Stat,
    Tree,
    Unreadable,
    age_s,
    shortened,
    shown,
    split_argv,
    uptime_s,
)
from bmcmedic.host.kernel.progress import Mark
from bmcmedic.host.typed import Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

STUCK_AFTER_S = 60.0
"""The age from which a client that makes no progress counts as stuck, unless told otherwise."""

ARGUMENTS_BYTES_MAX = 4 << 10
"""Longer command lines are not judged. Kernels before 4.2 tell no more, and not that they cut."""

ARGUMENTS_MAX = 256
"""Of so many different command lines it is remembered what they mean."""

TOO_LONG = "its arguments are too long to be judged"

STACKS_MAX = 64
WCHANS_MAX = 64
"""Of so many different kernel stacks, and functions, it is remembered what they mean."""

STACK_FRAMES_MAX = 8
_STACK_BYTES_MAX = 4 << 10

WATCHED_S_MIN = 16.0
"""So long a client must have stood still before our eyes where nobody tells when it last ran.

Clients wake up after 15 s or never.
"""

WATCHED_TOO_BRIEFLY = (
    "stands still, but the kernel does not tell since when, and it was watched too briefly"
)
"""The evidence beside the finding of that name."""

STARTING_S_MAX = 2.0
"""What a client takes to get from its start to its first question, on a sick host."""

_DEVICE = r"/dev/ipmi(?:dev)?/?[0-9]+(?: \(deleted\))?\Z"
_TERMINAL = r"/dev/pts/[0-9]+\Z"

# Where the kernel lets a client of the BMC wait: select() and poll(), and the IPMI driver itself.
_WAITS_FOR_ANSWER = (
    r"(?:do_select|core_sys_select|do_poll|do_sys_poll|poll_schedule_timeout|ep_poll|\w*ipmi\w*)"
    r"(?:\.\w+)*\Z"
)
_NO_WCHAN = r"(?:0|-|(?:0x)?[0-9a-f]{8,16})?\Z"
# A stack begins with how it gave up its CPU, on arm64 before 5.17 and on powerpc.
_SCHEDULER = r"(?:__switch_to|__schedule|(?:io_)?schedule\w*|context_switch)(?:\.\w+)*\Z"
_WCHAN_BYTES_MAX = 256


class Now(NamedTuple):
    """The moment of a look, by the clocks that processes are measured with."""

    uptime_s: float
    clocks_s: Dict[int, float]
    """Those that last turns are noted by, of the CPUs that were asked for; see `clocks_s`."""

    @classmethod
    def of(cls, tree: Tree, cpus: Iterable[int] = ()) -> "Now":
        """Read the clocks; raises Gone or Unreadable where not even the uptime is told."""
        clocks = clocks_s(tree, cpus)
        return cls(uptime_s(tree), clocks)


class ClientSample(NamedTuple):
    """A close look at a process."""

    mark: Mark
    age_s: float
    idle_s: Optional[float]
    """For how long it has not run at all, at the least, where the kernel tells."""
    wchan: Optional[str]
    """The kernel function that it waits in; None: not readable."""
    stack: Tuple[str, ...] = ()
    """Kernel functions, the innermost first; empty where they cannot be read, or were not."""

    @property
    def stat(self) -> Stat:
        """Its stat at this look."""
        return self.mark.stat

    @classmethod
    def at(cls, process: Process, now: Now, *, with_stack: bool = False) -> "ClientSample":
        """`with_stack`: it is read in any case, and decides no more. Raises Gone or Unreadable."""
        # Its mark comes after that moment: who has a turn in between, and maybe on another CPU, by
        # whose clock the moment would say something else, has moved.
        turn_s = None
        if now.clocks_s:
            turn_s = turn_at_s(process.read_or_none("sched", SCHED_BYTES_MAX))
        mark = Mark.of(process)
        wchan = _wchan(process)
        # A stack costs more than a wchan, but kernels from 4.14 to 5.15 often have no other.
        stack: Tuple[str, ...] = ()
        if wchan is None or with_stack:
            innermost, stack = _by_stack(process.read_or_none("stack", _STACK_BYTES_MAX) or b"")
            wchan = wchan or innermost
        clock_s = now.clocks_s.get(mark.stat.processor)
        idle_s = None
        if turn_s is not None and clock_s is not None:
            idle_s = max(0.0, clock_s - turn_s)
        return cls(mark, age_s(mark.stat, now.uptime_s), idle_s, wchan, stack)


class Holdings(NamedTuple):
    """What a process has open."""

    devices: List[str]
    """Of /dev/ipmi*."""
    has_socket: bool
    """A socket other than its standard input and output."""
    terminal: Optional[str]
    """The terminal at its standard input or output."""


class Client(NamedTuple):
    """A process that is one of the clients on the list, or looks like one."""

    identity: ProcessIdentity
    program: str
    argv: List[str]
    """Its arguments with all secrets masked, as many of them as are shown."""
    doubt: Optional[str]
    """Why it cannot be told to be a client at all: its executable cannot be read."""
    excluded: Optional[str]
    """Why it is none to be judged by its waiting, such as `-I lanplus`."""
    holdings: Optional[Holdings]
    """None: not readable."""
    first: Mark

    @classmethod
    def of(cls, process: Process, executable: Optional[str] = None) -> "Optional[Client]":
        """The client that a process is, or None; raises Gone or Unreadable.

        `executable`: what its `exe` says, where that has been read already.
        """
        doubt = None
        try:
            program = program_of(executable or process.link("exe"))
        except Unreadable as error:
            program, doubt = looks_like(process.stat().comm), f"its executable: {error}"
        except Gone:
            return None  # the kernel's own, or a zombie
        if program is None:
            return None
        first = Mark.of(process)
        argv, excluded = _understood(program, process.read("cmdline", ARGUMENTS_BYTES_MAX))
        return cls(
            identity=first.stat.identity,
            program=program,
            argv=argv,
            doubt=doubt,
            excluded=excluded,
            holdings=holdings_or_none(process),
            first=first,
        )


def cpus_of(clients: Iterable[Client]) -> Set[int]:
    """The CPUs that clients last ran on, of those that are judged by when that was."""
    judged = (each for each in clients if each.doubt is None and each.excluded is None)
    return {each.first.stat.processor for each in judged}


@lru_cache(maxsize=ARGUMENTS_MAX)
def _understood(program: str, cmdline: bytes) -> Tuple[List[str], Optional[str]]:
    """The arguments, masked, and why it is left alone; those of a crowd are all alike."""
    argv = split_argv(cmdline)
    if len(cmdline) < ARGUMENTS_BYTES_MAX:
        return shortened(redacted(argv, program)), why_left_alone(program, argv)
    # Of the last word a part may be missing by which it would be known as a secret.
    return shortened([*redacted(argv[:-1], program), "…"]), TOO_LONG


class Finding(Enum):
    """What a client is found to be."""

    STUCK = "stuck"
    YOUNG = "young"
    PROGRESS = "makes progress"
    EXCLUDED = "left alone"
    """Its waiting proves nothing: it talks to another BMC, or waits for a person or an event."""
    NOT_PROVEN = "not proven"
    WATCHED_TOO_BRIEFLY = "not proven yet"
    """It stands still, but nothing tells since when, and it was not watched for long enough."""
    GONE = "gone"

    @property
    def is_unproven(self) -> bool:
        """Whether the client may be stuck, but nothing proves it."""
        return self in (Finding.NOT_PROVEN, Finding.WATCHED_TOO_BRIEFLY)

    @property
    def word(self) -> str:
        """The word for it in JSON and on the screen, which know one kind of not proven."""
        return (Finding.NOT_PROVEN if self.is_unproven else self).value


class ClientVerdict(NamedTuple):
    """What a client is found to be, and by what."""

    finding: Finding
    evidence: List[str]

    @property
    def is_stuck(self) -> bool:
        """Whether it is proven stuck: only then may anything be done about it."""
        return self.finding is Finding.STUCK


def judge(
    client: Client, again: Optional[ClientSample], stuck_after_s: float, still_s_min: float = 0.0
) -> ClientVerdict:
    """What a client is: pure, from the mark that it had and a later look.

    `still_s_min`: so long at the least it has not run, however short `stuck_after_s` is.
    """
    if again is None or not _is_the_same(client, again.stat) or again.stat.state in "ZXx":
        return ClientVerdict(Finding.GONE, ["it has ended"])
    if client.doubt is not None:
        return ClientVerdict(Finding.NOT_PROVEN, [client.doubt])
    excluded = client.excluded or _on_terminal(client, again)
    if excluded is not None:
        return ClientVerdict(Finding.EXCLUDED, [excluded])
    if again.stat.state in "Tt":
        return ClientVerdict(Finding.EXCLUDED, ["somebody stopped it"])
    if again.age_s < stuck_after_s:
        return ClientVerdict(Finding.YOUNG, [f"{again.age_s:.0f} s old"])
    progress = _progress(client.first, again, max(idle_s_min(stuck_after_s), still_s_min))
    if progress is not None:
        return ClientVerdict(Finding.PROGRESS, [progress])
    if again.mark.turns is None:
        return ClientVerdict(Finding.NOT_PROVEN, ["whether it has run cannot be read"])
    return _waiting(client, again)


def unless_too_soon(verdict: ClientVerdict, look: ClientSample, watched_s: float) -> ClientVerdict:
    """The same, but nobody is stuck who may have run shortly before it was watched."""
    if not verdict.is_stuck or look.idle_s is not None or watched_s >= WATCHED_S_MIN:
        return verdict
    return ClientVerdict(Finding.WATCHED_TOO_BRIEFLY, [WATCHED_TOO_BRIEFLY])


def _progress(first: Mark, again: ClientSample, still_s: float) -> Optional[str]:
    """What speaks for its making progress, however little."""
    if again.mark.is_running:
        return "it runs"
    if again.stat.cpu_ticks != first.stat.cpu_ticks or again.mark.run_ns != first.run_ns:
        return "it used CPU time while we looked"
    if again.mark.has_moved_since(first):
        return "it ran while we looked"
    if again.idle_s is not None and again.idle_s < still_s:
        return f"it ran {again.idle_s:.1f} s ago"
    return None


def idle_s_min(stuck_after_s: float) -> float:
    """For how long a stuck client has not run: a slow BMC's wake up now and then, with answers."""
    return max(stuck_after_s - STARTING_S_MAX, stuck_after_s / 2)


def _waiting(client: Client, again: ClientSample) -> ClientVerdict:
    """The verdict on a client that stands still, by what it waits for."""
    holds = client.holdings
    if again.wchan is None and (holds is None or not holds.devices):
        return ClientVerdict(Finding.NOT_PROVEN, ["what it waits for cannot be read"])
    if again.wchan is not None and not _is_for_answer(again.wchan):
        return ClientVerdict(Finding.EXCLUDED, [f"waits in {again.wchan}, not for a BMC"])
    if holds is not None and not holds.devices and holds.has_socket:
        return ClientVerdict(
            Finding.EXCLUDED, ["talks over a socket, not over this host's interface"]
        )
    evidence = [f"state {again.stat.state}"]
    if again.wchan is not None:
        evidence.append(f"waits in {again.wchan}")
    if again.idle_s is not None:
        evidence.append(f"has not run for {int(again.idle_s)} s")  # at the least
    else:
        evidence.append("no CPU time while we looked")
    if holds is not None and holds.devices:
        named = ", ".join(holds.devices)
        evidence.append(f"has {named} open")
    return ClientVerdict(Finding.STUCK, evidence)


def _is_the_same(client: Client, stat: Stat) -> bool:
    return client.identity == (stat.pid, stat.start_ticks)


@lru_cache(maxsize=WCHANS_MAX)
def _is_for_answer(wchan: str) -> bool:
    return re.match(_WAITS_FOR_ANSWER, wchan) is not None


def _on_terminal(client: Client, again: ClientSample) -> Optional[str]:
    if again.stat.terminal:
        return "on somebody's terminal"
    if client.holdings is not None and client.holdings.terminal is not None:
        return f"on somebody's terminal, {client.holdings.terminal}"
    return None


# ------------------------------------------------------------------------------ reading one process


def holdings_or_none(process: Process) -> Optional[Holdings]:
    """What a process has open; None where that cannot be read."""
    devices = set()
    has_socket = False
    terminal = None
    try:
        files = process.open_files()
    except Gone:
        files = None
    if files is None:
        return None
    for name, target in files.items():
        if target[:9] == "/dev/ipmi" and is_device(target):
            devices.add(target)
        elif name in ("0", "1", "2"):
            if target[:9] == "/dev/pts/" and re.match(_TERMINAL, target):
                terminal = target
        elif target[:7] == "socket:":
            has_socket = True
    return Holdings(sorted(devices), has_socket, terminal)


def is_device(target: str) -> bool:
    """Whether an open file is a door to the BMC."""
    return re.match(_DEVICE, target) is not None


def is_gone(device: str) -> bool:
    """Whether an open device is there no more: its interface was taken away."""
    return device.endswith(" (deleted)")


def _wchan(process: Process) -> Optional[str]:
    return _function(process.read_or_none("wchan", _WCHAN_BYTES_MAX) or b"")


@lru_cache(maxsize=WCHANS_MAX)
def _function(raw: bytes) -> Optional[str]:
    text = shown(raw).strip()
    return None if re.match(_NO_WCHAN, text) or re.match(_SCHEDULER, text) else text


@lru_cache(maxsize=STACKS_MAX)
def _by_stack(raw: bytes) -> Tuple[Optional[str], Tuple[str, ...]]:
    """What it waits in, and the functions of its stack; those of a crowd are all alike."""
    words = [line.partition("] ")[2].partition("+")[0] for line in shown(raw).splitlines()]
    frames = tuple(filter(None, words))[:STACK_FRAMES_MAX]
    gave_up_cpu = 0
    for count, frame in enumerate(frames, 1):
        if re.match(_SCHEDULER, frame):
            gave_up_cpu = count
        elif not re.match(_NO_WCHAN, frame):
            return (frame if count == gave_up_cpu + 1 else None), frames
    return None, frames
