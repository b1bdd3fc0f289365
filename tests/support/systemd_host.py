"""A host with a real systemd that runs the units as they ship, and probes inside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bmcmedic.lab.guest.guest import Done, Guest
from bmcmedic.lab.sim_process import SimProcess

DEADLINE_S = 120
UNITS = ("bmcmedic-driver", "bmcmedic-agent")
KIPMID = "/sys/module/ipmi_si/parameters/kipmid_max_busy_us"
STRANGER_ADDRESS = "10.9.9.9"
"""An address of the guest's own that is not localhost."""

PROBE = rb"""#!/usr/bin/python3
# Try what a service should be able to do and what it should not. As ExecStartPre= of a unit the
# probe has every setting of the unit, including seccomp filter, control group and mounts.
import ctypes, errno, json, mmap, os, socket, sys, time
from bmcmedic.host.kernel.cpu_clocks import clocks_s
from bmcmedic.host.kernel.proc import Tree

libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def opened(path, flags):
    os.close(os.open(path, flags))

def sent_to(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"x", (address, 9999))

def writable_code():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()

def set_user_id_bit():
    path = "/run/bmcmedic/probe"
    opened(path, os.O_CREAT | os.O_WRONLY)
    try:
        os.chmod(path, 0o4755)
    finally:
        os.unlink(path)

def raised_session():
    for nice in (-10, 0):
        time.sleep(0.2)  # the kernel takes one such change within 0.1 s
        with open("/proc/self/autogroup", "w") as file:
            file.write(str(nice))

def clocks_read():
    if sorted(clocks_s(Tree("/proc"), [0, 1])) != [0, 1]:
        raise PermissionError(errno.EPERM, "no clocks")

def others_seen():
    with open("/run/lab/other") as file:
        pid = int(file.read())
    os.readlink(f"/proc/{pid}/exe")
    os.listdir(f"/proc/{pid}/fd")
    os.kill(pid, 0)

KIPMID = "/sys/module/ipmi_si/parameters/kipmid_max_busy_us"
TRIED = {
    "write /usr": lambda: opened("/usr/probe", os.O_CREAT | os.O_WRONLY),
    "write /etc": lambda: opened("/etc/bmcmedic/probe", os.O_CREAT | os.O_WRONLY),
    "write /var/lib/bmcmedic": lambda: opened("/var/lib/bmcmedic/probe", os.O_CREAT | os.O_WRONLY),
    "write /run/bmcmedic": lambda: opened("/run/bmcmedic/probe.w", os.O_CREAT | os.O_WRONLY),
    "read /root": lambda: opened(os.path.expanduser("~root/secret"), os.O_RDONLY),
    "read /tmp of others": lambda: opened("/tmp/secret", os.O_RDONLY),
    "read /proc/stat": lambda: opened("/proc/stat", os.O_RDONLY),
    "write kipmid": lambda: opened(KIPMID, os.O_WRONLY),
    "write sysrq-trigger": lambda: opened("/proc/sysrq-trigger", os.O_WRONLY),
    "write /dev/kmsg": lambda: opened("/dev/kmsg", os.O_WRONLY),
    "open /dev/ipmi0": lambda: opened("/dev/ipmi0", os.O_RDWR),
    "open /dev/port": lambda: opened("/dev/port", os.O_RDWR),
    "change a control group": lambda: os.mkdir("/sys/fs/cgroup/probe"),
    "AF_UNIX": lambda: socket.socket(socket.AF_UNIX).close(),
    "AF_INET": lambda: socket.socket(socket.AF_INET).close(),
    "AF_NETLINK": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "AF_PACKET": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "send to localhost": lambda: sent_to("127.0.0.1"),
    "send to others": lambda: sent_to("10.9.9.9"),
    "real-time priority": lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(12)),
    "a raised priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, -10),
    "a raised session": raised_session,
    "the clock of each CPU": clocks_read,
    "lock memory": lambda: call("mlockall", 1),
    "writable code": writable_code,
    "a user namespace": lambda: call("unshare", 0x10000000),
    "load a module": lambda: call("syscall", 313, 0, b"", 0),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "set the host's name": lambda: socket.sethostname("probe"),
    "reboot": lambda: call("reboot", 0),
    "set-user-id bit": set_user_id_bit,
    "others' processes": others_seen,
}

errors = {}
for what, act in TRIED.items():
    try:
        act()
    except OSError as error:
        errors[what] = errno.errorcode[error.errno]
    else:
        errors[what] = None
with open(f"/run/bmcmedic/probe.{sys.argv[1]}", "w") as file:
    json.dump(errors, file)
"""

DRIVER_STATUS = b"""#!/usr/bin/python3
# The driver's status, as JSON.
import json
from bmcmedic.driver.socket.client import DriverClient
with DriverClient(timeout_s=20) as client:
    print(json.dumps(client.status()))
"""

ASK = b"""#!/usr/bin/python3
# lab-ask GROUP: try the sockets and files in /run/bmcmedic as an ordinary user of that group.
import json, os, socket, sys
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.errors import BmcmedicError

def read():
    with DriverClient(timeout_s=20) as client:
        return client.raw(0x06, 0x01, b"").completion_code

def change():
    with DriverClient(timeout_s=20) as client:
        return client.raw(0x06, 0x02, b"").completion_code

def metrics():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/run/bmcmedic/metrics.sock")
        client.sendall(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")
        return client.makefile().readline().split()[1] == "200"

def secret():
    with open("/run/bmcmedic/door/password") as file:
        return len(file.read()) > 0

os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(1000)
results = {}
for act in (read, change, metrics, secret):
    try:
        results[act.__name__] = act()
    except (BmcmedicError, OSError) as error:
        results[act.__name__] = type(error).__name__
print(json.dumps(results))
"""

CLIENT = b"""\
# Behave as ipmitool up to 1.8.15: send a request and wait in select() for ever; not as root.
import os, select
from bmcmedic.transport.dev_ipmi_device import IpmiDevice
device = IpmiDevice("/dev/ipmi0")
device.send(1, bytes.fromhex("1801"))
os.setgid(65534)
os.setuid(65534)
select.select([], [], [])
"""

CONTROLLER = b"""#!/usr/bin/python3
# Keep the last report and its Authorization header.
import http.server, json, os, ssl

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        received = {"authorization": self.headers["Authorization"], "report": json.loads(body)}
        with open("/run/lab/report.new", "w") as file:
            json.dump(received, file)
        os.rename("/run/lab/report.new", "/run/lab/report")
        self.send_response(204)
        self.end_headers()

server = http.server.HTTPServer(("127.0.0.1", 8443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/run/lab/controller.pem", "/run/lab/controller.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""

OTHER = b"""#!/usr/bin/python3
# A process of another user.
import os, time
with open("/run/lab/other", "w") as file:
    file.write(str(os.getpid()))
os.setgid(65534)
os.setuid(65534)
time.sleep(100000)
"""

LAB_FILES = {
    "/usr/bin/lab-other": OTHER,
    "/usr/bin/lab-probe": PROBE,
    "/usr/bin/lab-driver-status": DRIVER_STATUS,
    "/usr/bin/lab-ask": ASK,
    "/usr/bin/lab-controller": CONTROLLER,
    "/usr/lib/lab-client.py": CLIENT,
    "/etc/group": b"root:x:0:\nnogroup:x:65534:\nmonitor:x:2000:\n",
    "/etc/bmcmedic/driver.toml": b"",
    "/etc/bmcmedic/agent.toml": b"",
}


@dataclass(frozen=True)
class SystemdHost:
    """The guest, and the commands of an operator in it."""

    guest: Guest
    bmc: SimProcess

    def run(self, command: str) -> str:
        """Run a command that has to succeed; return its output."""
        done = self.guest.run(command, DEADLINE_S)
        assert done.status == 0, f"{command}: {done.output}\n{self.log()}"
        return done.output

    def systemctl(self, *words: str) -> str:
        return self.run("systemctl " + " ".join(words))

    def try_systemctl(self, *words: str) -> Done:
        """Run systemctl, which may fail."""
        return self.guest.run("systemctl " + " ".join(words), DEADLINE_S)

    def configure(self, driver: str, agent: str) -> None:
        self.guest.write_file("/etc/bmcmedic/driver.toml", driver.encode())
        self.guest.write_file("/etc/bmcmedic/agent.toml", agent.encode())

    def drop_in(self, unit: str, text: str) -> None:
        """Write a drop-in, as `systemctl edit` does; an empty text removes it."""
        folder = f"/etc/systemd/system/{unit}.service.d"
        self.run(f"mkdir -p {folder}; rm -f {folder}/lab.conf")
        if text:
            self.guest.write_file(f"{folder}/lab.conf", text.encode())
        self.systemctl("daemon-reload")

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        output = self.systemctl("show", "--property", ",".join(properties), unit)
        return dict(line.split("=", 1) for line in output.splitlines())

    def state(self, unit: str) -> str:
        return self.show(unit, "ActiveState")["ActiveState"]

    def main_pid(self, unit: str) -> int:
        return int(self.show(unit, "MainPID")["MainPID"])

    def start_stuck_clients(self, count: int) -> None:
        """Start stuck clients of another user, which have no parent."""
        self.run("mkdir -p /run/lab/bin; cp $(readlink -f /usr/bin/python3) /run/lab/bin/ipmitool")
        self.run(
            f"for i in $(seq {count}); do PYTHONHOME=/usr setsid /run/lab/bin/ipmitool -S"
            " /usr/lib/lab-client.py mc info </dev/null >/dev/null 2>&1 & done"
        )

    def threads(self, unit: str) -> list[tuple[int, int]]:
        """Return the real-time priority and the policy of each thread."""
        output = self.run(f"cut -d' ' -f40,41 /proc/{self.main_pid(unit)}/task/*/stat")
        return [(int(a), int(b)) for a, b in (line.split() for line in output.splitlines())]

    def process_status(self, unit: str) -> dict[str, str]:
        """Return /proc/PID/status of the unit's main process."""
        output = self.run(f"cat /proc/{self.main_pid(unit)}/status").splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in output)}

    def wait_until_active(self, unit: str, *, other_than: int = 0) -> int:
        """Wait for a main process that has reported READY; return its pid."""
        seen: dict[str, str] = {}

        def is_active() -> bool:
            seen.update(self.show(unit, "ActiveState", "MainPID"))
            return seen["ActiveState"] == "active" and int(seen["MainPID"]) != other_than

        try:
            self.guest.wait_until(is_active, DEADLINE_S, f"{unit} to be active")
        except BaseException as error:
            error.add_note(self.log())
            raise
        return int(seen["MainPID"])

    def journal(self, unit: str, *options: str) -> list[dict[str, Any]]:
        """Return the journal's entries of the unit, and of systemd about it."""
        output = self.run(f"journalctl --boot --output json --unit {unit} {' '.join(options)}")
        return [json.loads(line) for line in output.splitlines()]

    def has_logged(self, unit: str, text: str) -> bool:
        """Wait until the unit's journal has that text, as the journal lags behind the unit."""
        self.guest.wait_until(
            lambda: any(text in str(entry["MESSAGE"]) for entry in self.journal(unit)),
            DEADLINE_S,
            f"{text!r} from {unit}",
        )
        return True

    def log(self) -> str:
        return self.guest.run(
            "journalctl --boot --no-pager --output short-monotonic | grep -v ' kernel: '"
            " | tail -n 120",
            DEADLINE_S,
        ).output

    def driver_status(self) -> dict[str, Any]:
        output: dict[str, Any] = json.loads(self.run("lab-driver-status"))
        return output

    def kipmid(self) -> str:
        """Return kipmid_max_busy_us; the kernel shows nothing, and means 0, before it was set."""
        return self.guest.run(f"cat {KIPMID}").output.strip() or "0"

    def processes(self) -> list[str]:
        """Return the command lines of bmcmedic's processes."""
        output = self.run(
            "for p in $(pidof python3); do tr '\\0' ' ' </proc/$p/cmdline; echo; done"
        )
        return [line for line in output.splitlines() if "bmcmedic" in line]
