"""The socket in the file system: whose it is, and who may open it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bmcmedic.driver.socket.listener import PATH_BYTES_MAX, listen, passed_socket, peer_of
from bmcmedic.errors import ConfigurationError

CHILD_TIMEOUT_S = 90


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "driver.sock"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_its_owner_and_its_group_may_open_it(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        alone = listen(str(path))
        assert mode(path) == 0o600 & ~umask
        alone.close()
        shared = listen(str(path), os.getegid())
        assert mode(path) == 0o660
        assert path.lstat().st_gid == os.getegid()
        shared.close()
    finally:
        os.umask(before)
    assert not path.exists()


def test_two_drivers_never_share_a_socket(path: Path) -> None:
    first = listen(str(path))
    with pytest.raises(ConfigurationError, match=r"another driver serves .*driver\.sock"):
        listen(str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()
    listen(str(path)).close()


def test_a_socket_that_something_else_serves_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ConfigurationError, match="another driver serves"):
            listen(str(path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_what_a_killed_driver_left_is_replaced(path: Path) -> None:
    code = (
        "import os, sys; from bmcmedic.driver.socket.listener import listen;"
        "listen(sys.argv[1]); os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], timeout=CHILD_TIMEOUT_S, check=False
    )
    assert done.returncode == 9
    assert stat.S_ISSOCK(path.lstat().st_mode)
    listener = listen(str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match="is not a socket"):
        listen(str(path))
    assert path.read_text() == "mine"


def test_the_successors_socket_is_not_taken_away(path: Path) -> None:
    first = listen(str(path))
    path.rename(path.with_name("moved"))
    path.write_text("the successor's")
    first.close()
    assert path.exists()


def test_what_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="make the directory"):
        listen(str(tmp_path / "missing" / "driver.sock"))
    with pytest.raises(ConfigurationError, match=f"longer than {PATH_BYTES_MAX} bytes"):
        listen("/" + "x" * PATH_BYTES_MAX)


def test_the_lock_is_no_link_to_elsewhere(path: Path, tmp_path: Path) -> None:
    Path(f"{path}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="cannot make the socket"):
        listen(str(path))
    assert not (tmp_path / "elsewhere").exists()


def test_a_peer_is_who_the_kernel_says() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peer_of(ours)
    assert peer.pid == os.getpid()
    assert peer.uid == os.geteuid()
    assert peer.gids == {os.getegid(), *os.getgroups()}


ACTIVATED = """
import os, socket, sys
from bmcmedic.driver.socket.listener import passed_socket
from bmcmedic.errors import ConfigurationError
kind, count, pid = sys.argv[1:]
made = {
    "listening": lambda: socket.socket(socket.AF_UNIX),
    "connected": lambda: socket.socketpair()[0],
    "internet": lambda: socket.socket(socket.AF_INET),
    "file": lambda: open(os.devnull),
}[kind]()
if kind == "listening":
    made.bind("\\0" + str(os.getpid()))
if kind in ("listening", "internet"):
    made.listen()
os.dup2(made.fileno(), 3)
environ = {"LISTEN_PID": pid or str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": "x"}
try:
    found = passed_socket(environ)
    print(environ, "none" if found is None else (found.socket.fileno(), os.get_inheritable(3)))
except ConfigurationError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("kind", "count", "pid", "told"),
    [
        ("listening", "1", "", "{} (3, False)"),
        ("listening", "1", "1", "{} none"),
        ("listening", "0", "", "{} none"),
        ("listening", "2", "", "the driver has one socket, and 2 were passed to it"),
        ("connected", "1", "", "the socket passed is not a listening Unix stream socket"),
        ("internet", "1", "", "the socket passed is not a listening Unix stream socket"),
        ("file", "1", "", "no socket was passed"),
    ],
)
def test_a_socket_that_systemd_opened_is_taken_over(
    kind: str, count: str, pid: str, told: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ACTIVATED, kind, count, pid],
        capture_output=True,
        text=True,
        timeout=CHILD_TIMEOUT_S,
        check=False,
    )
    assert told in done.stdout, done.stderr


def test_without_activation_nothing_is_taken() -> None:
    assert passed_socket({}) is None
