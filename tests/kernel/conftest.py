"""A kernel in QEMU for tests: the one that `make setup` prepares, and guests that tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.lab.guest.guest import Guest
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.sim_process import SimProcess, sim_bmc

KERNEL_FOLDER = Path(__file__).resolve().parents[2] / "build" / "kernel"

BootGuest = Callable[..., Guest]
"""Boots a guest with options of `GuestOptions`; the guest ends with the test."""


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """Return the kernel; without one, the tests that need it fail and say how to set it up."""
    return Kernel.find(KERNEL_FOLDER)


@pytest.fixture
def boot_guest(kernel: Kernel) -> Iterator[BootGuest]:
    """Yield a function that boots a guest for this test alone."""
    with contextlib.ExitStack() as guests:

        def boot(**options: Any) -> Guest:  # noqa: ANN401 - those of GuestOptions
            return guests.enter_context(Guest(kernel, **options))

        yield boot


@pytest.fixture(scope="module")
def shared_bmc() -> Iterator[SimProcess]:
    """Yield the BMC of `shared_guest`; a test that sets faults clears them again."""
    with sim_bmc() as bmc:
        yield bmc


@pytest.fixture(scope="module")
def shared_guest(kernel: Kernel, shared_bmc: SimProcess) -> Iterator[Guest]:
    """Yield a guest with /dev/ipmi0 and ipmitool, for tests that do not change its state."""
    with Guest(kernel, bmc=shared_bmc.vm_socket, programs=("ipmitool",)) as guest:
        yield guest
