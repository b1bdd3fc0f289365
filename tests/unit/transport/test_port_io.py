from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmcmedic.errors import (
    BmcmedicError,
    ConfigurationError,
    NoAnswer,
    Refused,
    RemoteProtocolError,
)
from bmcmedic.ipmi.kcs import STATUS_IBF
from bmcmedic.ipmi.kcs_bmc import BmcKcs, KcsEvent
from bmcmedic.ipmi.kcs_errors import KcsTimeout, NothingThere
from bmcmedic.ipmi.kcs_host import KcsLimits
from bmcmedic.transport import port_io as port_io_module
from bmcmedic.transport.in_band import InterfaceGone, Interrupted, Ipmb
from bmcmedic.transport.port_io import GUARD_PERIOD_S, PORT_IO_LIMITS, PortIo
from bmcmedic.transport.port_io_registers import DevPort, PortGuard, owner_in
from tests.support.kcs_pair import ACCESS_S, NEVER, Pair, Trouble, answer_to

REQUEST = b"\x18\x01token"
WAIT_S_MAX = 120.0
COARSE = KcsLimits(ibf_s=5, obf_s=5, recoveries_max=3, exchange_s=10, poll_s_max=0.05)
"""As `PORT_IO_LIMITS`, with fewer looks: virtual time costs nothing, they do."""


class Wires:
    """The registers of a `Pair`, its clock, and a claim; each access takes time."""

    def __init__(self, pair: Pair | None = None) -> None:
        self.pair = pair or Pair()
        self.accesses = 0
        self.asked: list[bool] = []
        self.asked_before_access = True
        self.at_claim: Callable[[], bool] = lambda: False
        """Called each time that the claim is asked; whether it is lost."""
        self._allowed = False

    def must_stop(self, *, recovering: bool) -> bool:
        self.asked.append(recovering)
        self._allowed = not self.at_claim()
        return not self._allowed

    def _touch(self) -> None:
        self.asked_before_access &= self._allowed
        self._allowed = False
        self.accesses += 1
        pair = self.pair
        pair.now += ACCESS_S
        if pair.disturb_in:
            pair.disturb_in -= 1
            if not pair.disturb_in:
                pair.disturb(pair)

    def read_status(self) -> int:
        self._touch()
        return self.pair.read_status()

    def read_data(self) -> int:
        self._touch()
        return self.pair.bmc.read_data()

    def write_data(self, byte: int) -> None:
        self._touch()
        self.pair.bmc.write_data(byte)

    def write_command(self, byte: int) -> None:
        self._touch()
        self.pair.bmc.write_command(byte)

    def monotonic(self) -> float:
        return self.pair.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.pair.now += seconds

    def port_io(self, limits: KcsLimits = COARSE, guard: FakeGuard | None = None) -> PortIo:
        return PortIo(self, limits=limits, guard=guard, monotonic=self.monotonic, sleep=self.sleep)

    def ask(
        self, port_io: PortIo, request: bytes = REQUEST, *, idempotent: bool = True, s: float = 99
    ) -> bytes:
        return port_io.attempt(request, self.pair.now + s, self, idempotent=idempotent)


class FakeGuard:
    def __init__(self) -> None:
        self.by: str | None = None
        self.looks = 0
        self.look: Callable[[], None] = lambda: None
        self.closed = False

    def owner(self) -> str | None:
        self.looks += 1
        self.look()
        return self.by

    def close(self) -> None:
        self.closed = True


def test_an_exchange_and_another() -> None:
    wires = Wires()
    port_io = wires.port_io()
    assert port_io.name == "port-io 0xca2"
    for token in (b"1", b"two"):
        request = b"\x18\x01" + token
        assert wires.ask(port_io, request) == answer_to(request)
    assert wires.asked_before_access
    assert not any(wires.asked)


def test_an_answer_that_takes_four_seconds_is_waited_for() -> None:
    wires = Wires(Pair(execute_s=4.0))
    assert wires.ask(wires.port_io()) == answer_to(REQUEST)


@given(st.integers(0, 2**32), st.booleans(), st.floats(0.001, 30))
@settings(max_examples=150, deadline=None)
def test_whatever_the_bmc_does_an_exchange_ends_in_time(
    seed: int, idempotent: bool, patience_s: float
) -> None:
    random = Random(seed)
    wires = Wires()
    pair = wires.pair
    pair.disturb = Trouble(random)
    port_io = wires.port_io()
    for number in range(10):
        pair.disturb_in = random.choice((0, 1, 5, 20, 40))
        pair.execute_s = random.choice((0.0, 0.01, 3.0, 7.0))
        pair.respond = answer_to
        pair.damaged = pair.cut = False
        pair.pending.clear()
        began = pair.now
        request = bytes((0x18, number, seed & 0xFF))
        try:
            response = wires.ask(port_io, request, idempotent=idempotent, s=patience_s)
        except (NoAnswer, RemoteProtocolError):
            pass
        else:
            assert response[:2] == bytes((0x1C, number))
        limit_s = min(patience_s, port_io.exchange_s_max)
        assert pair.now - began <= limit_s + 4 * ACCESS_S + 1e-9 * pair.now
        assert wires.asked_before_access
    # Whatever was left behind, it gets over it.
    pair.calm()
    pair.pending.clear()
    with contextlib.suppress(BmcmedicError):
        wires.ask(port_io)
    assert wires.ask(port_io) == answer_to(REQUEST)


@given(st.integers(0, 60), st.booleans())
@settings(deadline=None)
def test_who_loses_the_claim_touches_nothing_more(after: int, idempotent: bool) -> None:
    wires = Wires()
    port_io = wires.port_io()
    wires.at_claim = lambda: wires.accesses >= after
    lost: Interrupted | None = None
    response = b""
    try:
        response = wires.ask(port_io, idempotent=idempotent)
    except Interrupted as error:
        lost = error
    if lost is None:
        assert response == answer_to(REQUEST)
        assert wires.accesses <= after
    else:
        assert wires.accesses == after
        assert lost.may_have_run or wires.pair.executed[REQUEST] == 0
    wires.at_claim = lambda: False
    assert wires.ask(port_io) == answer_to(REQUEST)


def test_the_claim_hears_of_a_recovery_and_can_end_it() -> None:
    wires = Wires()
    wires.pair.bits_set, wires.pair.bits_until = STATUS_IBF, 1e9
    port_io = wires.port_io()
    began = wires.pair.now
    wires.at_claim = lambda: wires.asked[-1]
    with pytest.raises(Interrupted) as raised:
        wires.ask(port_io)
    assert not raised.value.may_have_run
    assert COARSE.ibf_s <= wires.pair.now - began <= COARSE.ibf_s + 0.2


def test_who_takes_over_is_not_disturbed_by_the_one_before() -> None:
    wires = Wires(Pair(execute_s=1.0))
    pat = b"\x18\x22pat"
    answers: list[bytes] = []

    def take_over_in_a_pause(seconds: float) -> None:
        wires.pair.now += seconds
        if not answers and wires.pair.executed[REQUEST]:
            answers.append(b"")
            port_io.take_over()
            answers[0] = wires.ask(port_io, pat)
            answers.append(str(wires.accesses).encode())

    wires.sleep = take_over_in_a_pause  # type: ignore[method-assign]
    port_io = wires.port_io()
    with pytest.raises(Interrupted) as raised:
        wires.ask(port_io)
    assert raised.value.may_have_run
    assert answers == [answer_to(pat), str(wires.accesses).encode()]
    assert wires.ask(port_io) == answer_to(REQUEST)


def test_who_takes_over_does_not_wait_long_for_an_access_that_does_not_end() -> None:
    wires = Wires()
    port_io = wires.port_io()
    pat = b"\x18\x22pat"
    answers: list[bytes] = []

    def stuck() -> bool:
        if wires.accesses == 7 and not answers:
            answers.append(b"")
            port_io.take_over()
            answers[0] = Wires(wires.pair).ask(port_io, pat)
            answers.append(str(wires.accesses).encode())
        return False

    wires.at_claim = stuck
    with pytest.raises(Interrupted):
        wires.ask(port_io)
    assert answers == [answer_to(pat), str(wires.accesses).encode()]
    assert wires.ask(port_io, pat) == answer_to(pat)


class Stuck(Wires):
    """One access to a register takes so long that somebody else has the interface meanwhile."""

    def __init__(self, stuck_at: int, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.stuck_at = stuck_at
        self.meanwhile = meanwhile

    def _touch(self) -> None:
        super()._touch()
        if self.accesses == self.stuck_at:
            self.meanwhile()


def accesses_of_an_exchange() -> int:
    wires = Wires()
    wires.ask(wires.port_io())
    return wires.accesses


@pytest.mark.parametrize("stuck_at", range(1, accesses_of_an_exchange() + 1))
def test_who_was_taken_over_in_an_access_takes_nothing_for_its_answer(stuck_at: int) -> None:
    """Where the other has ended, the registers look like the end of a response."""
    answers: list[tuple[bytes, int]] = []
    pat = b"\x18\x22pat"

    def take_over() -> None:
        port_io.take_over()
        answers.append((wires.ask(port_io, pat), wires.accesses))

    wires = Stuck(stuck_at, take_over)
    port_io = wires.port_io()
    with pytest.raises(Interrupted):
        wires.ask(port_io)
    assert answers == [(answer_to(pat), wires.accesses)]
    assert wires.ask(port_io) == answer_to(REQUEST)


class LiveBmc(BmcKcs):
    """Answers as soon as it is looked at."""

    def read_status(self) -> int:
        if self.service() is KcsEvent.REQUEST:
            self.respond(self.request_number, answer_to(self.request))
        return super().read_status()


class Owner:
    """Who may use the interface: the driver's lock and generation, as far as this needs them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.generation = 0

    def fence_off(self) -> threading.Lock:
        lock = threading.Lock()
        lock.acquire()
        self.generation += 1
        self.lock = lock
        return lock


class Generation:
    """A claim that is lost when the generation changes."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._mine = owner.generation

    def must_stop(self, *, recovering: bool) -> bool:  # noqa: ARG002
        return self._mine != self._owner.generation


def test_two_threads_that_take_the_interface_from_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Else a thread that a busy machine leaves standing in an access comes back in the middle of a
    # pat: that is an access that does not end, and has tests of its own.
    monkeypatch.setattr(port_io_module, "TAKE_OVER_S", WAIT_S_MAX)
    port_io, owner = PortIo(LiveBmc(), limits=COARSE), Owner()
    ended: Counter[str] = Counter()
    stop, went_on = threading.Event(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            went_on.set()
            claim, lock = Generation(owner), owner.lock
            with lock:
                if claim.must_stop(recovering=False):
                    continue
                try:
                    response = port_io.attempt(REQUEST, NEVER, claim, idempotent=True)
                except Interrupted:
                    ended["interrupted"] += 1
                else:
                    ended["answered" if response == answer_to(REQUEST) else "wrong"] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(300):
            went_on.clear()
            assert went_on.wait(WAIT_S_MAX)  # a machine that is busy besides
            lock = owner.fence_off()
            port_io.take_over()
            pat = b"\x18\x22" + number.to_bytes(2, "big")
            claim = Generation(owner)
            assert port_io.attempt(pat, NEVER, claim, idempotent=True) == answer_to(pat)
            lock.release()
    finally:
        stop.set()
        thread.join(WAIT_S_MAX)
    assert not thread.is_alive()
    assert ended["wrong"] == 0
    assert ended["interrupted"] > 0


def test_who_was_fenced_off_on_the_way_in_leaves_the_other_alone() -> None:
    wires = Wires(Pair(execute_s=1.0))
    lost = Wires()
    lost.at_claim = lambda: True
    refused: list[bool] = []

    def come_late(seconds: float) -> None:
        wires.pair.now += seconds
        with pytest.raises(Interrupted) as raised:
            lost.ask(port_io)
        refused.append(not raised.value.may_have_run)

    wires.sleep = come_late  # type: ignore[method-assign]
    port_io = wires.port_io()
    assert wires.ask(port_io) == answer_to(REQUEST)
    assert refused
    assert all(refused)


def test_an_error_from_outside_leaves_no_exchange_behind() -> None:
    wires = Wires()
    port_io = wires.port_io()

    def interrupt() -> bool:
        if wires.accesses == 9:
            raise KeyboardInterrupt
        return False

    wires.at_claim = interrupt
    with pytest.raises(KeyboardInterrupt):
        wires.ask(port_io)
    wires.at_claim = lambda: False
    assert wires.ask(port_io) == answer_to(REQUEST)


def test_where_nothing_answers_it_says_what_to_look_for() -> None:
    wires = Wires()
    wires.pair.bits_set, wires.pair.bits_until = 0xFF, 1e9
    assert "nothing answers at port-io 0xca2: dmidecode" in str(wires.port_io().missing)
    began = wires.pair.now
    with pytest.raises(NothingThere, match=r"no BMC at this address.*port-io 0xca2.*dmidecode"):
        wires.ask(wires.port_io())
    assert wires.pair.now - began < 1
    assert all(wires.pair.executed[request] == 0 for request in wires.pair.executed)


def test_where_a_bmc_is_nothing_is_missing_and_a_look_leaves_the_exchange_alone() -> None:
    wires = Wires()
    port_io = wires.port_io()
    missing: list[str | None] = []

    def look() -> bool:
        missing.append(port_io.missing)
        return False

    wires.at_claim = look
    assert wires.ask(port_io)[2] == 0
    assert len(missing) > len(REQUEST)
    assert set(missing) == {None}


def test_a_wedged_bmc_costs_what_it_may_and_no_more() -> None:
    wires = Wires()
    wires.pair.bits_set, wires.pair.bits_until = STATUS_IBF, 1e9
    port_io = wires.port_io(PORT_IO_LIMITS)
    began = wires.pair.now
    with pytest.raises(KcsTimeout):
        wires.ask(port_io)
    assert wires.pair.now - began <= port_io.exchange_s_max == 10.2


def test_behind_the_bmc_it_does_not_reach() -> None:
    wires = Wires()
    with pytest.raises(
        Refused, match=r"not 0x2c on its channel 6: load ipmi_si and use /dev/ipmi0"
    ):
        wires.port_io().send_bridged(b"\x10\x2d\xbe", Ipmb(6, 0x2C), 9.0, wires, print)


@pytest.mark.parametrize(("base", "spacing"), [(-1, 1), (0xCA2, 0), (0xFFFF, 1), (0x10000, 1)])
def test_ports_that_cannot_be(base: int, spacing: int) -> None:
    with pytest.raises(ConfigurationError, match="no KCS interface at port"):
        PortIo(Pair().bmc, base=base, spacing=spacing)


# ------------------------------------------------------------------------ who else has the ports


def test_nothing_is_touched_while_the_kernels_driver_has_the_ports() -> None:
    wires, guard = Wires(), FakeGuard()
    port_io = wires.port_io(guard=guard)
    guard.by = "the kernel's ipmi_si has ports: use /dev/ipmi0 instead"
    with pytest.raises(InterfaceGone, match="use /dev/ipmi0"):
        wires.ask(port_io)
    assert wires.accesses == 0
    guard.by = None
    assert wires.ask(port_io) == answer_to(REQUEST)
    port_io.close()
    assert guard.closed


def test_an_exchange_does_not_go_on_under_a_driver_that_came() -> None:
    wires, guard = Wires(Pair(execute_s=5.0)), FakeGuard()
    port_io = wires.port_io(PORT_IO_LIMITS, guard=guard)
    came_at = wires.pair.now + 1.0

    def come() -> None:
        guard.by = "ipmi_si" if wires.pair.now >= came_at else None

    guard.look = come
    with pytest.raises(InterfaceGone):
        wires.ask(port_io)
    assert wires.pair.now <= came_at + GUARD_PERIOD_S + PORT_IO_LIMITS.poll_s_max


IOPORTS = """\
0000-0cf7 : PCI Bus 0000:00
  0060-0060 : keyboard
  01f0-01f7 : 0000:00:01.1
  0ca2-0ca3 : IPI0001:00
    0ca2-0ca2 : IPMI Address 1
    0ca3-0ca3 : IPMI Address 2
0d00-ffff : PCI Bus 0000:00
"""
TAKEN = IOPORTS.replace("IPMI Address 1", "IPMI Address 1\n      0ca2-0ca2 : ipmi_si")


@pytest.mark.parametrize(
    ("ioports", "owner"),
    [
        (IOPORTS, None),
        ("", None),
        ("garbage\n0ca2 : x\n-- : ipmi_si\n", None),
        ("  0ca0-0caf : pnp 00:0d\n", None),
        ("  0ca2-0ca3 : 0000:05:00.4\n", None),
        (TAKEN, "the ports 0x0ca2 to 0x0ca2: use /dev/ipmi0 instead, or unload ipmi_si"),
        ("0000-0000 : keyboard\n0000-0000 : ipmi_si\n", "the kernel's ipmi_si has ports"),
        ("  0ca3-0ca3 : vendor_kcs\n", "vendor_kcs has the ports 0x0ca3 to 0x0ca3: give the base"),
        ("  0ca4-0ca4 : ipmi_si\n", None),
    ],
)
def test_who_has_the_ports(ioports: str, owner: str | None) -> None:
    found = owner_in(ioports, (0xCA2, 0xCA3))
    if owner is None:
        assert found is None
    else:
        assert found is not None
        assert owner in found


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_any_ioports_are_read(ioports: str) -> None:
    owner_in(ioports, (0xCA2, 0xCA3))


def test_the_guard_sees_what_comes_and_goes(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ioports cannot be read"):
        PortGuard(0xCA2, 1, str(tmp_path))
    (tmp_path / "proc").mkdir()
    (tmp_path / "dev").mkdir()
    ioports = tmp_path / "proc" / "ioports"
    ioports.write_text(IOPORTS)
    guard = PortGuard(0xCA2, 1, str(tmp_path))
    assert [guard.owner(), guard.owner()] == [None, None]
    ioports.write_text(TAKEN)
    assert "ipmi_si" in str(guard.owner())
    assert "ipmi_si" in str(guard.owner())
    ioports.write_text(IOPORTS)
    assert guard.owner() is None
    (tmp_path / "dev" / "ipmi0").touch()
    assert "ipmi0 is there" in str(guard.owner())
    (tmp_path / "dev" / "ipmi0").unlink()
    assert guard.owner() is None
    guard.close()
    guard.close()
    with pytest.raises(InterfaceGone):
        guard.owner()


def test_the_guard_reads_this_machine() -> None:
    guard = PortGuard(0xFFF0, 1)
    assert guard.owner() == guard.owner()
    guard.close()


# ---------------------------------------------------------------------------------- /dev/port


def test_registers_stand_at_base_and_spacing(tmp_path: Path) -> None:
    ports = tmp_path / "port"
    ports.write_bytes(bytes(0xCA0) + bytes(range(0x20)))
    device = DevPort(0xCA2, 4, str(ports))
    assert (device.read_data(), device.read_status()) == (2, 6)
    device.write_data(0xFF)
    device.write_command(0x61)
    assert ports.read_bytes()[0xCA2:0xCA7] == b"\xff\x03\x04\x05\x61"
    os.truncate(ports, 0xCA3)
    with pytest.raises(InterfaceGone, match="port 0xca6 cannot be read"):
        device.read_status()
    device.close()
    device.close()
    with pytest.raises(InterfaceGone):
        device.read_data()
    with pytest.raises(InterfaceGone):
        device.write_data(0)


def test_only_one_driver_has_the_ports(tmp_path: Path) -> None:
    ports = tmp_path / "port"
    ports.touch()
    first = DevPort(0xCA2, 1, str(ports))
    with pytest.raises(ConfigurationError, match="another bmcmedic driver has it"):
        DevPort(0xCA2, 1, str(ports))
    first.close()
    DevPort(0xCA2, 1, str(ports)).close()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(1, "Operation not permitted"), "no right to open .* CAP_SYS_RAWIO"),
        (FileNotFoundError(2, "No such file or directory"), "no raw ports"),
    ],
)
def test_ports_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, error: OSError, told: str
) -> None:
    def refuse(path: str, flags: int) -> int:  # noqa: ARG001
        raise error

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigurationError, match=told):
        DevPort(0xCA2, 1)


def test_this_machines_ports_are_refused_where_a_driver_has_them() -> None:
    guard = FakeGuard()
    guard.by = "ipmi_si"
    with pytest.raises(ConfigurationError, match="port-io 0xca2 cannot be used: ipmi_si"):
        PortIo(guard=guard)
    assert guard.closed
