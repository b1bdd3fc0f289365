"""Decide whether a client is stuck, by evidence: never by its name or by its age alone.

`Client.of` finds a client and marks how far it has come. `ClientSample.at` samples it some seconds
later, and `judge` compares the two. A caller that acts on a verdict first holds the process
(`Tree.hold`), samples and judges it again, and then acts through the same hold, because its pid may
belong to another process by then.
"""

import re
from enum import Enum
from functools import lru_cache

from bmcmedic.host.client.programs import CLIENTS, FREEIPMI, looks_like, program_of, why_excluded
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
"""Default age from which a client that makes no progress counts as stuck, in seconds."""

ARGUMENTS_BYTES_MAX = 4 << 10
"""Length from which a command line is not judged, in bytes.

Kernels before 4.2 return no more, and do not report that they cut the line.
"""

ARGUMENTS_MAX = 256
"""Number of different command lines whose meaning is cached."""

TOO_LONG = "its arguments are too long to be judged"
"""Why a client is excluded whose command line may have been cut."""

STACKS_MAX = 64
WCHANS_MAX = 64
"""Numbers of different kernel stacks and kernel functions whose meaning is cached."""

STACK_FRAMES_MAX = 8
"""Number of innermost functions of a kernel stack that are shown."""
_STACK_BYTES_MAX = 4 << 10

WATCHED_S_MIN = 16.0
"""Time for which we must see a client stand still if nothing tells when it last ran, in seconds.

A client wakes up after 15 s or never.
"""

WATCHED_TOO_BRIEFLY = (
    "stands still, but the kernel does not report since when, and it was watched too briefly"
)
"""The evidence that goes with `Finding.WATCHED_TOO_BRIEFLY`."""

STARTING_S_MAX = 2.0
"""Time from a client's start to its first request on a sick host, at the most, in seconds."""

_DEVICE = r"/dev/ipmi(?:dev)?/?[0-9]+(?: \(deleted\))?\Z"
_TERMINAL = r"/dev/pts/[0-9]+\Z"

# Kernel functions in which a client of the BMC waits: select(), poll() and the IPMI driver itself.
_WAITS_FOR_ANSWER = (
    r"(?:do_select|core_sys_select|do_poll|do_sys_poll|poll_schedule_timeout|ep_poll"
    r"|(?!acpi_)\w*ipmi\w*)(?:\.\w+)*\Z"
)
# The driver's functions. ACPI has functions of its own that ask the BMC on behalf of sensors.
_IN_DRIVER = r"(?!acpi_)\w*ipmi\w*(?:\.\w+)*\Z"
# Functions that wait for whatever their caller waits for: locks, completions, RCU and work queues.
_WAITS_FOR_CALLER = (
    r"(?:_*(?:mutex_lock|wait_for_c|do_wait_for_common|synchronize_s?rcu|wait_rcu_gp|cleanup_srcu"
    r"|flush_work|cancel_work|cancel_delayed_work)\w*)(?:\.\w+)*\Z"
)
# FreeIPMI's own in-band drivers share one System V semaphore.
_IN_SEMAPHORE = r"_*(?:do_semtimedop|sys_semtimedop|sys_semop|do_sys_semop)(?:\.\w+)*\Z"
_NO_WCHAN = r"(?:0|-|(?:0x)?[0-9a-f]{8,16})?\Z"
# On arm64 before 5.17 and on powerpc, a stack begins with the functions that gave up the CPU.
_SCHEDULER = r"(?:__switch_to|__schedule|(?:io_)?schedule\w*|context_switch)(?:\.\w+)*\Z"
_WCHAN_BYTES_MAX = 256


class Now(NamedTuple):
    """The moment of a scan, by the clocks that processes are measured with."""

    uptime_s: float
    clocks_s: Dict[int, float]
    """The clocks of the requested CPUs, in which the kernel notes last turns; see `clocks_s`."""

    @classmethod
    def of(cls, tree: Tree, cpus: Iterable[int] = ()) -> "Now":
        """Read the clocks; raises Gone or Unreadable if not even the uptime can be read."""
        clocks = clocks_s(tree, cpus)
        return cls(uptime_s(tree), clocks)


class ClientSample(NamedTuple):
    """What a process does at one moment."""

    mark: Mark
    age_s: float
    idle_s: Optional[float]
    """For at least how long the process has not run, in seconds; None: unknown."""
    wchan: Optional[str]
    """The kernel function in which the process waits; None: not readable."""
    stack: Tuple[str, ...] = ()
    """Kernel functions, the innermost first; empty if they could not be or were not read."""
    driver_call: Optional[str] = None
    """The function of the IPMI driver for which the process waits; None: none, or unknown."""

    @property
    def stat(self) -> Stat:
        """The stat of the process at this moment."""
        return self.mark.stat

    @classmethod
    def at(cls, process: Process, now: Now, *, with_stack: bool = False) -> "ClientSample":
        """Sample a process; raises Gone or Unreadable.

        `with_stack`: read the stack even if the verdict does not need it.
        """
        # The mark is read after the last turn. A process that runs in between, maybe on another CPU
        # with another clock, has moved by its mark.
        turn_s = None
        if now.clocks_s:
            turn_s = turn_at_s(process.read_or_none("sched", SCHED_BYTES_MAX))
        mark = Mark.of(process)
        wchan = _wchan(process)
        # Reading a stack costs more, but kernels from 4.14 to 5.15 often have no wchan. A lock does
        # not show who waits for it; its callers do.
        stack: Tuple[str, ...] = ()
        driver_call = None
        if wchan is None or with_stack or _is_for_caller(wchan):
            raw = process.read_or_none("stack", _STACK_BYTES_MAX) or b""
            innermost, stack, driver_call = _by_stack(raw)
            if wchan is None:
                wchan = innermost
            elif not _is_for_caller(wchan):
                driver_call = None
        clock_s = now.clocks_s.get(mark.stat.processor)
        idle_s = None
        if turn_s is not None and clock_s is not None:
            idle_s = max(0.0, clock_s - turn_s)
        return cls(mark, age_s(mark.stat, now.uptime_s), idle_s, wchan, stack, driver_call)


class Holdings(NamedTuple):
    """What a process has open."""

    devices: List[str]
    """The open ones of /dev/ipmi*."""
    has_socket: bool
    """Whether a socket is open beside its standard input and output."""
    terminal: Optional[str]
    """The terminal at its standard input or output; None: there is none."""


class Client(NamedTuple):
    """A process that runs one of the listed client programs, or seems to."""

    identity: ProcessIdentity
    program: str
    argv: List[str]
    """Its arguments as far as they are shown, with all secrets redacted."""
    doubt: Optional[str]
    """Why it may be no client at all: its executable cannot be read."""
    excluded: Optional[str]
    """Why its waiting proves nothing, such as `-I lanplus`; None: it is judged."""
    holdings: Optional[Holdings]
    """None: not readable."""
    first: Mark
    """The mark that later samples are compared with."""
    is_ending: bool = False
    """Whether it has given up its memory already, and the kernel still closes its files."""

    @classmethod
    def of(
        cls, process: Process, executable: Optional[str] = None, *, with_ending: bool = False
    ) -> "Optional[Client]":
        """Return the client that a process is, or None; raises Gone or Unreadable.

        `executable`: the target of its `exe` link, if the caller has read it already.
        `with_ending`: return a client that is ending as well. It is known by its name alone.
        """
        is_ending = False
        doubt = None
        try:
            program = program_of(executable or process.link("exe"))
        except Unreadable as error:
            program, doubt = looks_like(process.stat().comm), f"its executable: {error}"
        except Gone:
            stat = process.stat() if with_ending else None
            if stat is None or stat.is_kernel_thread or stat.state in "ZXx":
                return None
            program, is_ending = looks_like(stat.comm), True
            doubt = "it is ending, and the kernel has not let it go; its executable is gone"
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
            is_ending=is_ending,
        )


def cpus_of(clients: Iterable[Client]) -> Set[int]:
    """Return the CPUs on which the clients that can be judged last ran."""
    judged = (each for each in clients if each.doubt is None and each.excluded is None)
    return {each.first.stat.processor for each in judged}


@lru_cache(maxsize=ARGUMENTS_MAX)
def _understood(program: str, cmdline: bytes) -> Tuple[List[str], Optional[str]]:
    """Return the redacted arguments, and why the client is excluded; a crowd shares one entry."""
    argv = split_argv(cmdline)
    if len(cmdline) < ARGUMENTS_BYTES_MAX:
        return shortened(redacted(argv, program)), why_excluded(program, argv)
    # The last word may be cut, so that it would not be recognised as a secret.
    return shortened([*redacted(argv[:-1], program), "…"]), TOO_LONG


class Finding(Enum):
    """What a client is found to be."""

    STUCK = "stuck"
    YOUNG = "young"
    PROGRESS = "makes progress"
    EXCLUDED = "left alone"
    """Its waiting proves nothing: it asks another BMC, or waits for a person or an event."""
    NOT_PROVEN = "not proven"
    WATCHED_TOO_BRIEFLY = "not proven yet"
    """It stands still, but nothing tells since when, and it was not watched long enough."""
    HELD_UP = "not proven, held up"
    """It stands still for a known reason, and no further right to read would prove it stuck."""
    GONE = "gone"

    @property
    def is_unproven(self) -> bool:
        """Whether the client may be stuck, but nothing proves it."""
        return self in (Finding.NOT_PROVEN, Finding.WATCHED_TOO_BRIEFLY, Finding.HELD_UP)

    @property
    def word(self) -> str:
        """The word in JSON and on the screen, which have only one word for unproven clients."""
        return (Finding.NOT_PROVEN if self.is_unproven else self).value


class ClientVerdict(NamedTuple):
    """What a client is found to be, and the evidence for it."""

    finding: Finding
    evidence: List[str]

    @property
    def is_stuck(self) -> bool:
        """Whether the client is proven stuck. Nothing may be done about any other."""
        return self.finding is Finding.STUCK


def judge(
    client: Client, again: Optional[ClientSample], stuck_after_s: float, still_s_min: float = 0.0
) -> ClientVerdict:
    """Return what a client is, from its mark and a later sample. This function is pure.

    `still_s_min`: the shortest idle time of a stuck client, however short `stuck_after_s` is.
    """
    if again is None or not _is_the_same(client, again.stat) or again.stat.state in "ZXx":
        return ClientVerdict(Finding.GONE, ["it has ended"])
    if client.doubt is not None:
        finding = Finding.HELD_UP if client.is_ending else Finding.NOT_PROVEN
        return ClientVerdict(finding, [client.doubt])
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


def unless_too_soon(
    verdict: ClientVerdict, sample: ClientSample, watched_s: float
) -> ClientVerdict:
    """Return the verdict, unless the client may have run shortly before it was first marked."""
    if not verdict.is_stuck or sample.idle_s is not None or watched_s >= WATCHED_S_MIN:
        return verdict
    return ClientVerdict(Finding.WATCHED_TOO_BRIEFLY, [WATCHED_TOO_BRIEFLY])


def _progress(first: Mark, again: ClientSample, still_s: float) -> Optional[str]:
    """Return what shows that a client makes progress, however little; None: nothing does."""
    if again.mark.is_running:
        return "it runs"
    if again.stat.cpu_ticks != first.stat.cpu_ticks or again.mark.run_ns != first.run_ns:
        return "it used CPU time while it was watched"
    if again.mark.has_moved_since(first):
        return "it ran while it was watched"
    if again.idle_s is not None and again.idle_s < still_s:
        return f"it ran {again.idle_s:.1f} s ago"
    return None


def idle_s_min(stuck_after_s: float) -> float:
    """Return the shortest time for which a stuck client has not run, in seconds.

    The clients of a slow BMC wake up now and then, with each answer.
    """
    return max(stuck_after_s - STARTING_S_MAX, stuck_after_s / 2)


def _waiting(client: Client, again: ClientSample) -> ClientVerdict:
    """Return the verdict on a client that stands still, by what it waits for."""
    holds = client.holdings
    if again.wchan is None and (holds is None or not holds.devices):
        return ClientVerdict(Finding.NOT_PROVEN, ["what it waits for cannot be read"])
    in_driver = again.driver_call
    if again.wchan is not None and in_driver is None and not _is_for_answer(again.wchan):
        if _is_for_caller(again.wchan) and not again.stack:
            why = f"waits in {again.wchan}; on whose behalf cannot be read"
            return ClientVerdict(Finding.NOT_PROVEN, [why])
        if CLIENTS[client.program] is FREEIPMI and re.match(_IN_SEMAPHORE, again.wchan):
            why = f"waits in {again.wchan} for FreeIPMI's in-band semaphore, held by another client"
            return ClientVerdict(Finding.HELD_UP, [why])
        return ClientVerdict(Finding.EXCLUDED, [f"waits in {again.wchan}, not for a BMC"])
    # The device that a client opens or closes is not among its open files.
    is_elsewhere = in_driver is None and holds is not None and not holds.devices
    if is_elsewhere and holds is not None and holds.has_socket:
        return ClientVerdict(
            Finding.EXCLUDED, ["talks over a socket, not over this host's interface"]
        )
    evidence = [f"state {again.stat.state}"]
    if again.wchan is not None:
        below = f", called by {in_driver}" if in_driver is not None else ""
        evidence.append(f"waits in {again.wchan}{below}")
    if again.idle_s is not None:
        evidence.append(f"has not run for {int(again.idle_s)} s")  # rounded down
    else:
        evidence.append("used no CPU time while it was watched")
    if holds is not None and holds.devices:
        named = ", ".join(holds.devices)
        evidence.append(f"has {named} open")
    return ClientVerdict(Finding.STUCK, evidence)


def _is_the_same(client: Client, stat: Stat) -> bool:
    return client.identity == (stat.pid, stat.start_ticks)


@lru_cache(maxsize=WCHANS_MAX)
def _is_for_answer(wchan: str) -> bool:
    return re.match(_WAITS_FOR_ANSWER, wchan) is not None


@lru_cache(maxsize=WCHANS_MAX)
def _is_for_caller(wchan: str) -> bool:
    return re.match(_WAITS_FOR_CALLER, wchan) is not None


def _on_terminal(client: Client, again: ClientSample) -> Optional[str]:
    if again.stat.terminal:
        return "on somebody's terminal"
    if client.holdings is not None and client.holdings.terminal is not None:
        return f"on somebody's terminal, {client.holdings.terminal}"
    return None


# ------------------------------------------------------------------------------ reading one process


def holdings_or_none(process: Process) -> Optional[Holdings]:
    """Return what a process has open; None: its open files cannot be read."""
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
    """Whether the target of an open file is a device of the IPMI driver."""
    return re.match(_DEVICE, target) is not None


def is_gone(device: str) -> bool:
    """Whether an open device no longer exists, because its interface was removed."""
    return device.endswith(" (deleted)")


def _wchan(process: Process) -> Optional[str]:
    return _function(process.read_or_none("wchan", _WCHAN_BYTES_MAX) or b"")


@lru_cache(maxsize=WCHANS_MAX)
def _function(raw: bytes) -> Optional[str]:
    text = shown(raw).strip()
    return None if re.match(_NO_WCHAN, text) or re.match(_SCHEDULER, text) else text


@lru_cache(maxsize=STACKS_MAX)
def _by_stack(raw: bytes) -> Tuple[Optional[str], Tuple[str, ...], Optional[str]]:
    """Return what a process waits in, its stack, and the driver's function that waits.

    The stack is cut to the frames that are shown. A crowd shares one entry.
    """
    words = [line.partition("] ")[2].partition("+")[0] for line in shown(raw).splitlines()]
    frames = tuple(filter(None, words))
    gave_up_cpu = 0
    innermost = None
    for count, frame in enumerate(frames, 1):
        if re.match(_SCHEDULER, frame):
            gave_up_cpu = count
        elif not re.match(_NO_WCHAN, frame):
            innermost = frame if count == gave_up_cpu + 1 else None
            break
    return innermost, frames[:STACK_FRAMES_MAX], _driver_call(frames[gave_up_cpu:])


def _driver_call(frames: Tuple[str, ...]) -> Optional[str]:
    """Return the driver's function that waits in a lock or the like; None: none is seen to.

    Any other function in between, such as a page fault's, waits for something of its own.
    """
    for count, frame in enumerate(frames):
        if not _is_for_caller(frame):
            return frame if count and re.match(_IN_DRIVER, frame) else None
    return None
