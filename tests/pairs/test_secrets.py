"""No password, K_g or session key is in any `repr`, `str` or error, in any state of a session."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from bmcmedic.errors import BmcmedicError, ConfigurationError
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.events import SessionFailed
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem, User
from bmcmedic.ipmi.rakp import KeyExchange
from tests.support.session_pair import Pair, make_pair

SECRET = b"Passw0rdPassw0rd"
KG = b"KgKgKgKgKgKgKgKgKgKg"
DEPTH_MAX = 8


def walk(thing: Any, depth: int = 0, seen: set[int] | None = None) -> Iterator[Any]:  # noqa: ANN401
    """Yield everything that can be reached from an object, except what only holds bytes."""
    seen = set() if seen is None else seen
    if (
        id(thing) in seen
        or depth > DEPTH_MAX
        or isinstance(thing, bytes | str | int | float | type)
    ):
        return
    seen.add(id(thing))
    yield thing
    inner: list[Any] = []
    if isinstance(thing, dict):
        inner += thing.values()
    elif isinstance(thing, list | tuple | set | frozenset):
        inner += thing
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        inner += [getattr(thing, name, None) for name in (slots if slots else ()) if name != "rng"]
    inner += getattr(thing, "__dict__", {}).values()
    if type(thing).__module__.startswith(("bmcmedic", "builtins")):
        for item in inner:
            yield from walk(item, depth + 1, seen)


def shown(thing: Any) -> str:  # noqa: ANN401
    return f"{thing!r} {thing!s}" + (
        repr(dataclasses.fields(thing)) if dataclasses.is_dataclass(thing) else ""
    )


def secrets_of(pair: Pair) -> list[bytes]:
    """Return the secrets that must not be shown: the given ones and every key derived from them."""
    found = [SECRET, KG]
    for thing in [*walk(pair.console), *walk(pair.managed)]:
        if isinstance(thing, KeyExchange):
            sik = thing.sik()
            found += [sik, thing.k1(sik), thing.k2(sik), thing.rakp2_code(), thing.rakp3_code()]
    return found


def assert_silent(pair: Pair, *more: object) -> None:
    secrets = secrets_of(pair)
    things = [*walk(pair.console), *walk(pair.managed), *pair.events, *more]
    assert {"Credentials", "User", "ManagedSystem"} <= {type(thing).__name__ for thing in things}
    for thing in things:
        # A plain container shows its contents, but only objects of our own are ever printed.
        if not type(thing).__module__.startswith("bmcmedic"):
            continue
        text = shown(thing)
        for secret in secrets:
            assert secret.decode("latin-1") not in text, type(thing)
            assert repr(secret)[2:-1] not in text, type(thing)
            assert secret.hex() not in text, type(thing)
            assert secret.hex(" ") not in text, type(thing)


def secret_pair(**options: Any) -> Pair:  # noqa: ANN401
    options = {"password": SECRET, "kg": KG, "bmc_kg": KG} | options
    return make_pair(users=(User(2, b"admin", SECRET),), **options)


@pytest.mark.parametrize("suite", [3, 17])
def test_at_every_step_of_a_session(suite: int) -> None:
    pair = secret_pair(suites=(suite,))
    assert_silent(pair)
    pair.console.open(pair.now, pair.now + 5)
    reached: set[str] = set()
    while not pair.events:
        pair.step()
        assert_silent(pair)
        reached |= {type(t).__name__ for t in [*walk(pair.console), *walk(pair.managed)]}
    assert {"Handshake", "KeyExchange", "SessionSlot", "Session"} <= reached
    incoming: list[IncomingRequest] = []

    def execute(managed: ManagedSystem, request: IncomingRequest, now: float) -> list[bytes | None]:
        incoming.append(request)
        return [managed.respond(request, 0, b"", now)]

    pair.execute = execute
    pair.ask()
    assert_silent(pair, *incoming)


@pytest.mark.parametrize(
    "options",
    [
        {"password": b"wrong"},
        {"kg": b"wrong"},
        {"user": "nobody"},
        {"slots": 0},
        {"bmc_suites": (1,)},
    ],
)
def test_in_every_failure(options: dict[str, Any]) -> None:
    pair = secret_pair(**options)
    event = pair.open()
    assert isinstance(event, SessionFailed)
    error: BmcmedicError = event.error
    assert_silent(pair, error, *error.args, *vars(error).values())


def test_in_credentials_users_and_their_errors() -> None:
    for thing in (Credentials("admin", SECRET, KG), User(2, b"admin", SECRET)):
        assert "Pass" not in shown(thing)
        assert "KgKg" not in shown(thing)
    for password, kg in ((SECRET * 2, b""), (b"", KG * 2)):
        with pytest.raises(ConfigurationError) as raised:
            Credentials("admin", password, kg)
        assert "Pass" not in str(raised.value)
        assert "KgKg" not in str(raised.value)
