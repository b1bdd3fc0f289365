"""`ssh` for tests: a program of that name whose host is a guest, reached over its console."""

from __future__ import annotations

import contextlib
import json
import shlex
import socketserver
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from bmcmedic.lab.guest.guest import Guest, GuestError

COMMAND_TIMEOUT_S = 60.0
LOST = 255
"""ssh's exit status when its host cannot be reached."""

STDIN = "/run/ssh-stdin"

_PROGRAM = """\
import json, socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as line:
    content = sys.stdin.buffer.read()
    said = {"command": " ".join(sys.argv[3:]), "stdin": content.decode("latin-1")}
    line.sendall(json.dumps(said).encode())
    line.shutdown(socket.SHUT_WR)
    answer = json.loads(line.makefile("rb").read())
sys.stdout.write(answer["output"])
sys.exit(answer["status"])
"""


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, guest: Guest, known: dict[bytes, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.guest = guest
        self.known = known
        self.copying = threading.Lock()

    def run(self, command: str, stdin: bytes) -> tuple[int, str]:
        """Run a command as sshd would; its standard error is part of the output here."""
        try:
            with self.copying:
                if stdin and stdin not in self.known:
                    place = f"{STDIN}.{len(self.known)}"
                    self.guest.write_file(place, stdin)
                    self.known[stdin] = place
            source = self.known.get(stdin, "/dev/null")
            done = self.guest.run(f"{{ {command}; }} <{source}", COMMAND_TIMEOUT_S)
        except GuestError as error:
            return LOST, str(error)
        return done.status, done.output


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        said = json.loads(self.rfile.read())
        status, output = self.server.run(said["command"], said["stdin"].encode("latin-1"))
        self.wfile.write(json.dumps({"status": status, "output": output}).encode())


@contextlib.contextmanager
def ssh_to(guest: Guest, folder: Path, known: dict[bytes, str]) -> Iterator[Path]:
    """Make `folder/ssh`, which runs commands in the guest until the block ends.

    `known`: standard inputs that the guest has as files already, so that they are not copied over
    its serial line.
    """
    server = _Server(guest, dict(known))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        port = server.server_address[1]
        program = folder / "ssh.py"
        program.write_text(_PROGRAM)
        ssh = folder / "ssh"
        words = shlex.join([sys.executable, "-I", str(program), str(port)])
        ssh.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        ssh.chmod(0o755)
        yield ssh
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
