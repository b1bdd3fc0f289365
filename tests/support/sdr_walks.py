"""Walks of an SDR repository, against any answering function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bmcmedic.errors import CompletionCodeError
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.sdr import GetSdrRepositoryInfoReq, GetSdrRepositoryInfoRsp
from bmcmedic.ipmi.sdr_walk import SdrRepository, walk_repository
from bmcmedic.sim.bmc import SimBmc
from tests.support.sim import START, ask

Answering = Callable[[Command[Any]], Any]
"""Returns the decoded response, or raises CompletionCodeError."""


def walked(info: GetSdrRepositoryInfoRsp, answering: Answering) -> SdrRepository:
    """Return the repository that `answer` describes."""
    steps = walk_repository(info)
    try:
        request = next(steps)
        while True:
            try:
                answer = answering(request)
            except CompletionCodeError as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as end:
        repository: SdrRepository = end.value
        return repository


def walked_sim(bmc: SimBmc) -> SdrRepository:
    """Return the repository of a simulated BMC."""
    info = ask(bmc, GetSdrRepositoryInfoReq(), START)
    return walked(info, lambda request: ask(bmc, request, START))
