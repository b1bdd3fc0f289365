"""`bmcmedic sim`: simulated BMCs, one or a rack, and what triage sees on their hosts."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from bmcmedic.errors import ConfigurationError, reason_of
from bmcmedic.sim.faults import DELAY_S_MAX, FaultSet
from bmcmedic.sim.front_ends.vm_serial import parse_vm_socket
from bmcmedic.sim.leak import MEMORY_BYTES
from bmcmedic.sim.rack import DEFAULT_USER, Account, BmcSpec, Rack, rack_specs
from bmcmedic.transport.addresses import format_address, parse_address

SECRET_FILE_BYTES_MAX = 256
SECRET_BYTES_MAX = 20
USER_NAME_BYTES_MAX = 16
ADDRESSES_PRINTED_MAX = 64
MEMORY_MIB_MIN, MEMORY_MIB_MAX = 4, 65_536
CONTROL_TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 1 << 20
EXIT_NO_ANSWER = 255
"""Exit status of `sim triage` when the simulated host is not up: the same as ssh's."""

_sim = typer.Typer(
    no_args_is_help=True,
    help="Simulate BMCs that get sick the way real ones do.",
    pretty_exceptions_enable=False,
)

User = Annotated[str, typer.Option("--user", help="The administrator's name.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", help="File with the password; without it `secret`."),
]
KgFile = Annotated[
    Path | None, typer.Option("--kg-file", help="File with the BMC key K_g; without it none.")
]
Control = Annotated[
    str | None,
    typer.Option("--control", metavar="ADDR:PORT", help="Open the HTTP control endpoint."),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Repeat the same losses, damage and GUIDs.")
]


@_sim.command("bmc")
def bmc(
    lan: Annotated[
        str | None,
        typer.Option(
            "--lan", metavar="ADDR:PORT", help="Serve RMCP+ at this address; port 0: any."
        ),
    ] = None,
    vm_socket: Annotated[
        str | None,
        typer.Option(
            "--vm-socket",
            metavar="ADDR:PORT|PATH",
            help="Socket at which QEMU connects, to have this as its machine's BMC.",
        ),
    ] = None,
    kcs_latency: Annotated[
        float,
        typer.Option(
            "--kcs-latency",
            metavar="S",
            help="How much later than over LAN the machine gets each answer.",
        ),
    ] = 0.0,
    port80_chardev: Annotated[
        str | None,
        typer.Option(
            "--port80-chardev",
            metavar="ADDR:PORT|PATH",
            help="Socket to which QEMU sends what its machine writes to port 0x80.",
        ),
    ] = None,
    memory: Annotated[
        int,
        typer.Option(
            "--memory",
            metavar="MIB",
            min=MEMORY_MIB_MIN,
            max=MEMORY_MIB_MAX,
            help="The BMC's memory; each write to port 0x80 leaks some of it.",
        ),
    ] = MEMORY_BYTES >> 20,
    control: Control = None,
    fault: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="SPEC", help="A fault such as slow:2.5; repeat for more."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="The BMC's name.")] = "bmc1",
    power: Annotated[str, typer.Option("--power", help="Power of the host: on or off.")] = "on",
    watchdog_armed: Annotated[
        float | None,
        typer.Option(
            "--watchdog-armed",
            metavar="S",
            help="The host runs a watchdog daemon; at this time-out the BMC resets it.",
        ),
    ] = None,
    user: User = DEFAULT_USER,
    password_file: PasswordFile = None,
    kg_file: KgFile = None,
    seed: Seed = None,
) -> None:
    """Simulate one BMC until SIGTERM or Ctrl-C; prints `ready` once every front end is open."""
    if power not in ("on", "off"):
        raise ConfigurationError(f"--power is on or off, not {power!r}")
    if lan is None and control is None and vm_socket is None:
        raise ConfigurationError(
            "there is no front end to open; give --lan, --vm-socket or --control"
        )
    if vm_socket is not None and watchdog_armed is not None:
        raise ConfigurationError(
            "--watchdog-armed is a daemon of the simulated host; with --vm-socket the virtual "
            "machine runs its own"
        )
    if not 0 <= kcs_latency <= DELAY_S_MAX:
        raise ConfigurationError(f"--kcs-latency takes 0 to {DELAY_S_MAX:g} seconds")
    if vm_socket is None and kcs_latency > 0:
        raise ConfigurationError(
            "--kcs-latency works only with a virtual machine: give --vm-socket"
        )
    spec = BmcSpec(
        _checked_name(name),
        None if lan is None else parse_address(lan),
        FaultSet.parse(fault or []),
        power_on=power == "on",
        watchdog_armed_s=_checked_countdown(watchdog_armed),
        vm_socket=None if vm_socket is None else parse_vm_socket(vm_socket),
        kcs_latency_s=kcs_latency,
        port80=None if port80_chardev is None else parse_vm_socket(port80_chardev),
        memory_bytes=memory << 20,
    )
    _run([spec], control, _account(user, password_file, kg_file), seed)


@_sim.command("rack")
def rack(
    count: Annotated[int, typer.Option("--count", help="How many BMCs.")],
    base_address: Annotated[
        str, typer.Option("--base-address", help="Address of the first; the others follow it.")
    ] = "127.0.1.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="UDP port of all of them.")
    ] = 623,
    control: Control = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="NAME=SPEC",
            help="A fault; NAME may be a pattern such as bmc000?1 or *; repeat for more.",
        ),
    ] = None,
    watchdog_armed: Annotated[
        list[str] | None,
        typer.Option(
            "--watchdog-armed", metavar="NAME=S", help="That BMC's host runs a watchdog daemon."
        ),
    ] = None,
    user: User = DEFAULT_USER,
    password_file: PasswordFile = None,
    kg_file: KgFile = None,
    seed: Seed = None,
) -> None:
    """Simulate many BMCs, an address each, until SIGTERM or Ctrl-C."""
    faults: dict[str, list[str]] = {}
    for named in fault or []:
        name, spec = _named("--fault", named, "NAME=SPEC")
        faults.setdefault(name, []).append(spec)
    armed = {}
    for named in watchdog_armed or []:
        name, seconds = _named("--watchdog-armed", named, "NAME=S")
        armed[name] = _seconds(named, seconds)
    specs = rack_specs(
        count,
        base_address,
        port,
        {name: FaultSet.parse(given) for name, given in faults.items()},
        armed,
    )
    _run(specs, control, _account(user, password_file, kg_file), seed)


@_sim.command("triage")
def triage(
    name: Annotated[str, typer.Argument(help="Name of the BMC, such as bmc00001.")],
    control: Annotated[
        str,
        typer.Option("--control", metavar="ADDR:PORT", help="The simulator's control endpoint."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print what `bmcmedic triage` would see on a BMC's simulated host.

    Exit status: 0 no symptom, 1 symptoms, 255 the host is off or still boots.
    """
    status, seen = _ask(control, f"/bmcs/{quote(name, safe='')}/triage")
    if status != http.client.OK:
        typer.echo(f"bmcmedic sim triage: {seen.get('error', 'no answer')}", err=True)
        raise typer.Exit(EXIT_NO_ANSWER if status == http.client.CONFLICT else 2)
    if as_json:
        typer.echo(json.dumps(seen))
    else:
        _print_triage(seen)
    raise typer.Exit(1 if seen["symptoms"] else 0)


def register(app: typer.Typer) -> None:
    """Put the group under `bmcmedic sim`."""
    app.add_typer(_sim, name="sim")


def _print_triage(seen: dict[str, Any]) -> None:
    typer.echo(f"{seen['host_id']['hostname']} (boot {seen['host_id']['boot_id']})")
    for thread in seen["kipmi"]:
        typer.echo(f"{thread['name']}: {thread['cpu_percent']:g} % of a core")
    typer.echo(f"stuck clients: {len(seen['stuck'])}")
    typer.echo(f"symptoms: {', '.join(seen['symptoms']) or 'none'}")


def _ask(control: str, path: str) -> tuple[int, dict[str, Any]]:
    host, port = parse_address(control)
    connection = http.client.HTTPConnection(host, port, timeout=CONTROL_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        answer = json.loads(response.read(ANSWER_BYTES_MAX))
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = reason_of(error)
        raise ConfigurationError(
            f"no control endpoint answers at {control}: {reason}; "
            "start the simulator with --control"
        ) from None
    finally:
        connection.close()
    key, kind = ("symptoms", list) if response.status == http.client.OK else ("error", str)
    if not isinstance(answer, dict) or not isinstance(answer.get(key), kind):
        raise ConfigurationError(
            f"no control endpoint answers at {control}: another program does; check the port"
        )
    return response.status, answer


def _run(specs: Sequence[BmcSpec], control: str | None, account: Account, seed: int | None) -> None:
    endpoint = None if control is None else parse_address(control)
    simulated = Rack(specs, account=account, control=endpoint, seed=seed)
    asyncio.run(_serve(simulated, specs))


async def _serve(simulated: Rack, specs: Sequence[BmcSpec]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with simulated:
        _print_addresses(simulated, [spec for spec in specs if spec.address is not None])
        for spec in specs:
            if spec.vm_socket is not None:
                typer.echo(f"{spec.name} vm {simulated.vm(spec.name).shown_address}")
            if spec.port80 is not None:
                typer.echo(f"{spec.name} port80 {simulated.port80(spec.name).shown_address}")
        typer.echo("ready")
        sys.stdout.flush()
        await stop.wait()


def _print_addresses(simulated: Rack, specs: Sequence[BmcSpec]) -> None:
    addresses = [format_address(simulated.port(spec.name).address) for spec in specs]
    any_port = any(spec.address is not None and spec.address[1] == 0 for spec in specs)
    if any_port or len(specs) <= ADDRESSES_PRINTED_MAX:
        for spec, address in zip(specs, addresses, strict=True):
            typer.echo(f"{spec.name} lan {address}")
    else:
        typer.echo(f"{specs[0].name} to {specs[-1].name} lan {addresses[0]} to {addresses[-1]}")
    if simulated.control is not None:
        typer.echo(f"control {format_address(simulated.control)}")


def _account(user: str, password_file: Path | None, kg_file: Path | None) -> Account:
    name = user.encode()
    if len(name) > USER_NAME_BYTES_MAX:
        raise ConfigurationError(f"--user has at most {USER_NAME_BYTES_MAX} bytes")
    kg = b"" if kg_file is None else _kg(kg_file)
    if password_file is None:
        return Account(kg=kg) if user == DEFAULT_USER else Account.single(user, b"secret", kg)
    return Account.single(user, _secret(password_file, SECRET_BYTES_MAX), kg)


def _kg(path: Path) -> bytes:
    """Read K_g: text, or 0x and hexadecimal digits, as the clients take it."""
    text = _secret(path, 2 + 2 * SECRET_BYTES_MAX)
    try:
        kg = bytes.fromhex(text[2:].decode()) if text.lower().startswith(b"0x") else text
    except ValueError:
        raise ConfigurationError(f"{path}: K_g starts with 0x but is not hexadecimal") from None
    if len(kg) > SECRET_BYTES_MAX:
        raise ConfigurationError(f"{path}: K_g has at most {SECRET_BYTES_MAX} bytes")
    return kg


def _secret(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            secret = file.read(SECRET_FILE_BYTES_MAX).rstrip(b"\r\n")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    if len(secret) > bytes_max:
        raise ConfigurationError(f"{path}: the secret may have at most {bytes_max} bytes")
    return secret


def _named(option: str, text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigurationError(f"{option} {text!r}: write {form}")
    return name, value


def _seconds(named: str, text: str) -> float:
    try:
        seconds = _checked_countdown(float(text))
    except ValueError:
        seconds = None
    if seconds is None:
        raise ConfigurationError(f"--watchdog-armed {named!r}: {text!r} is not a number of seconds")
    return seconds


def _checked_countdown(seconds: float | None) -> float | None:
    if seconds is not None and not 1 <= seconds <= 6553.5:
        raise ConfigurationError("--watchdog-armed takes 1 to 6553.5 seconds")
    return seconds


def _checked_name(name: str) -> str:
    if not name or len(name) > 64 or not name.isascii() or not name.isprintable() or "/" in name:
        raise ConfigurationError("--name takes up to 64 printable characters without a slash")
    return name
