"""A kernel in QEMU for tests: what `make setup` prepares, and guests that tests share."""

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
"""Boots a guest with these options (see `GuestOptions`), which ends with the test."""


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """The kernel; a test that needs it fails where it is not, and says what to do."""
    return Kernel.find(KERNEL_FOLDER)


@pytest.fixture
def boot_guest(kernel: Kernel) -> Iterator[BootGuest]:
    """For a test that needs a machine of its own."""
    with contextlib.ExitStack() as guests:

        def boot(**options: Any) -> Guest:  # noqa: ANN401 - those of GuestOptions
            return guests.enter_context(Guest(kernel, **options))

        yield boot


@pytest.fixture(scope="module")
def shared_bmc() -> Iterator[SimProcess]:
    """The BMC of `shared_guest`; a test that makes it sick makes it well again."""
    with sim_bmc() as bmc:
        yield bmc


@pytest.fixture(scope="module")
def shared_guest(kernel: Kernel, shared_bmc: SimProcess) -> Iterator[Guest]:
    """A machine for all tests of a module that leave it as it was: /dev/ipmi0 and ipmitool."""
    with Guest(kernel, bmc=shared_bmc.vm_socket, programs=("ipmitool",)) as guest:
        yield guest
