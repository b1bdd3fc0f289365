"""The scripts in the guest of `lab kernel`: monitoring, watchdog daemon, and sampling.

`lab-watch` samples the guest and reports each sample. All scripts but `lab-driver-watch` work
without bmcmedic: they need plain Python and a shell.
"""

from __future__ import annotations

from bmcmedic.lab.guest.scripts import AGENT_TTY

PATS = "/run/lab/pats"
PERIOD = "/run/lab/period"
"""File with the period of the monitoring, in seconds; it can be changed at any time."""
SAMPLE_PERIOD_S = 1.0
PAT_PERIOD_S = 2.0

IPMI_DEVICE = '''\
"""A client of /dev/ipmi0 that needs nothing but Python: <linux/ipmi.h> by hand."""
import array, fcntl, os, select, struct

SEND = 0x8028690D
RECEIVE_TRUNC = 0xC030690B
SET_MAINTENANCE_MODE = 0x4004691F
BMC = struct.pack("@ihBx", 0x0C, 0x0F, 0)
ADDRESS_BYTES = 40


def ipmb(channel, address):
    return struct.pack("@ihBB", 1, channel, address, 0)


class Ipmi:
    def __init__(self):
        self.fd = os.open("/dev/ipmi0", os.O_RDWR)
        self.last = 0

    def send(self, netfn, command, data=b"", address=BMC):
        self.last += 1
        place, content = array.array("B", address), array.array("B", data or b"\\0")
        request = struct.pack(
            "@PIlBBHP", place.buffer_info()[0], len(address), self.last,
            netfn, command, len(data), content.buffer_info()[0],
        )
        fcntl.ioctl(self.fd, SEND, request)

    def receive(self):
        """Return the next answer, completion code first; wait for ever, as ipmitool 1.8.15 did."""
        while True:
            select.select([self.fd], [], [])
            place, content = array.array("B", bytes(ADDRESS_BYTES)), array.array("B", bytes(300))
            answer = bytearray(struct.pack(
                "@iPIlBBHP", 0, place.buffer_info()[0], ADDRESS_BYTES, 0, 0, 0, 300,
                content.buffer_info()[0],
            ))
            fcntl.ioctl(self.fd, RECEIVE_TRUNC, answer)
            _, _, _, number, _, _, length, _ = struct.unpack("@iPIlBBHP", answer)
            if number == self.last:
                return content.tobytes()[:length]

    def ask(self, *request, **named):
        self.send(*request, **named)
        return self.receive()

    def set_maintenance_mode(self, mode):
        fcntl.ioctl(self.fd, SET_MAINTENANCE_MODE, struct.pack("@i", mode))
'''

STARTER = """\
# Monitoring scripts that start a client now and then, and do not wait for it. An emulated processor
# needs nearly a second to start an interpreter, so this one forks: its clients look like itself.
import os, sys, time
sys.path.insert(0, "/usr/lib/lab")
from ipmi_device import Ipmi, ipmb


def start(client):
    # The client has no parent any more, as the clients of scripts that have ended.
    if (child := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            client()
        os._exit(0)
    os.waitpid(child, 0)


def keep_starting(client, name):
    with open(f"/run/lab/{name}.starter", "w") as file:
        file.write(str(os.getpid()))
    started = 0
    while True:
        start(client)
        started += 1
        with open(f"/run/lab/{name}.new", "w") as file:
            file.write(str(started))
        os.rename(f"/run/lab/{name}.new", f"/run/lab/{name}.started")
        asked_at = time.monotonic()
        while True:
            with open("/run/lab/period") as file:
                left_s = asked_at + float(file.read()) - time.monotonic()
            if left_s <= 0:
                break
            time.sleep(min(left_s, 0.5))
"""

MC_INFO = """\
# This is `ipmitool mc info`: the interpreter's second name is ipmitool, and this file's is mc.
import sys
sys.path.insert(0, "/usr/lib/lab")
from ipmi_device import Ipmi
from starter import keep_starting

keep_starting(lambda: Ipmi().ask(0x06, 0x01), "mc-info")
"""

BRIDGED = """\
# This is `ipmitool -b 6 -t 0x2c raw 0x4 0x2d 0xbe`: -b means something to Python too, and this
# file's name is 6. ipmitool asks the BMC itself before the controller behind it.
import sys
sys.path.insert(0, "/usr/lib/lab")
from ipmi_device import Ipmi, ipmb
from starter import keep_starting


def ask():
    device = Ipmi()
    device.ask(0x06, 0x01)
    device.ask(0x04, 0x2D, bytes((0xBE,)), address=ipmb(6, 0x2C))


keep_starting(ask, "bridged")
"""

OLD_MONITORING = """\
#!/bin/sh
# It stands for ipmitool 1.8.15: a program of that name that waits for ever.
ln -f /usr/bin/python3 /usr/bin/ipmitool
cd /usr/lib/monitoring
ipmitool mc info &
exec ipmitool -b 6 -t 0x2c raw 0x4 0x2d 0xbe
"""

PATTER = f"""\
#!/usr/bin/python3
# A usual watchdog daemon over /dev/ipmi0: each pat waits for all requests that were sent before it.
import sys, time
sys.path.insert(0, "/usr/lib/lab")
from ipmi_device import Ipmi

# SMS/OS, no action, 600 s.
SET = bytes((0x04, 0x00, 0x00, 0x00, 0x70, 0x17))
device = Ipmi()
with open("{PATS}", "a", buffering=1) as log:
    due = time.monotonic()
    is_set = False
    while True:
        log.write(f"sent {{due:.3f}}\\n")
        if not is_set:
            device.ask(0x06, 0x24, SET)
        code = device.ask(0x06, 0x22)[0]
        is_set = code != 0x80
        now = time.monotonic()
        log.write(f"done {{due:.3f}} {{now - due:.3f}} {{code}}\\n")
        due = max(due + {PAT_PERIOD_S}, now)
        time.sleep(max(0.0, due - time.monotonic()))
"""

WATCH = f"""\
#!/usr/bin/python3
# Sample kipmi0's CPU time, the clients and the pats once a second, without a request to the BMC.
import glob, json, os, sys, time

STUCK_AFTER_S = float(sys.argv[1])
TICK = os.sysconf("SC_CLK_TCK")
KCS = "/sys/class/ipmi/ipmi0/device/"


def stat(pid):
    with open(f"/proc/{{pid}}/stat") as file:
        return file.read().rpartition(")")[2].split()


def kipmi():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{{pid}}/comm") as file:
                if file.read() == "kipmi0\\n":
                    return pid
        except OSError:
            pass
    return None


def cpu_s(pid):
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICK


def others():
    "Find the kernel threads. They have no executable, and to try each one every time costs most."
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            os.readlink(f"/proc/{{pid}}/exe")
        except OSError:
            yield pid


OTHERS = set(others())


def is_client(pid):
    "Return whether it is ipmitool, or the shim in its place, which is a script of that name."
    exe = os.path.basename(os.readlink(f"/proc/{{pid}}/exe"))
    if exe.startswith("ipmitool"):
        return True
    if not exe.startswith("python3"):
        return False
    with open(f"/proc/{{pid}}/cmdline", "rb") as file:
        words = file.read().split(b"\\0")[1:4]
    return any(os.path.basename(word).startswith(b"ipmitool") for word in words)


def clients(now, known):
    "Return the number stuck, each one's CPU time and its last change, and the oldest's start."
    stuck, seen, oldest_at = 0, {{}}, None
    starters = {{str(number(path)) for path in glob.glob("/run/lab/*.starter")}}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if pid in OTHERS or pid in starters:
                continue
            if not is_client(pid):
                continue
            fields = stat(pid)
            used = int(fields[11]) + int(fields[12])
        except OSError:
            continue
        started_at = int(fields[19]) / TICK
        before, since = known.get(pid, (None, None))
        seen[pid] = (used, since if before == used else now)
        stuck += fields[0] in "SD" and now - seen[pid][1] >= STUCK_AFTER_S
        oldest_at = started_at if oldest_at is None else min(oldest_at, started_at)
    return stuck, seen, oldest_at


def number(path):
    try:
        with open(path) as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def watch():
    pid, known, pats = kipmi(), {{}}, None
    waiting_since = None
    next_at = time.monotonic()
    with open("{AGENT_TTY}", "wb", buffering=0) as out:
        while True:
            now = time.monotonic()
            done = []
            if pats is None and os.path.exists("{PATS}"):
                pats = open("{PATS}")
            while pats is not None and (line := pats.readline()):
                word, *numbers = line.split()
                if word == "sent":
                    waiting_since = float(numbers[0])
                else:
                    waiting_since = None
                    done.append([float(each) for each in numbers])
            stuck, known, oldest_at = clients(now, known)
            with open("/proc/stat") as file:
                cpu = [int(each) / TICK for each in file.readline().split()[1:9]]
            now = time.monotonic()
            sample = {{
                "at": round(now, 3),
                "kipmi_s": None if pid is None else cpu_s(pid),
                "idle_s": round(cpu[3] + cpu[4], 3),
                "clients": len(known),
                "stuck": stuck,
                "oldest_at": oldest_at,
                "started": sum(number(path) or 0 for path in glob.glob("/run/lab/*.started")),
                "pats": done,
                "waiting_s": None if waiting_since is None else round(now - waiting_since, 3),
                "completed": number(KCS + "complete_transactions"),
                "hosed": number(KCS + "hosed_count"),
                "throttle": number("/sys/module/ipmi_si/parameters/kipmid_max_busy_us"),
            }}
            out.write(b"report " + json.dumps(sample).encode() + b"\\n")
            next_at = max(next_at + {SAMPLE_PERIOD_S}, time.monotonic())
            time.sleep(next_at - time.monotonic() if next_at > time.monotonic() else 0)


watch()
"""

MAINTENANCE = """\
#!/usr/bin/python3
# The kernel's own switch (IPMICTL_SET_MAINTENANCE_MODE_CMD): 0 automatic, 1 off, 2 on.
import sys
sys.path.insert(0, "/usr/lib/lab")
from ipmi_device import Ipmi
Ipmi().set_maintenance_mode(int(sys.argv[1]))
"""

FLOOD = """\
#!/usr/bin/python3
# Write to port 0x80 as a bug in firmware or driver does: endlessly, or so many times a second.
import os, sys, time
port = os.open("/dev/port", os.O_WRONLY)
rate = float(sys.argv[1]) if sys.argv[1:] else None
began = time.monotonic()
written = 0
while True:
    os.pwrite(port, b"*", 0x80)
    written += 1
    if rate is not None and written > rate * (time.monotonic() - began):
        time.sleep(0.05)
"""

MONITORING = """\
#!/bin/sh
# Monitoring scripts that start an ipmitool now and then, and do not wait for it.
started=0
while true; do
    (setsid ipmitool mc info >/dev/null 2>&1 </dev/null &)
    (setsid ipmitool -b 6 -t 0x2c raw 0x4 0x2d 0xbe >/dev/null 2>&1 </dev/null &)
    started=$((started + 2))
    echo $started >/run/lab/monitoring.new
    mv /run/lab/monitoring.new /run/lab/monitoring.started
    sleep $(cat /run/lab/period)
done
"""

DRIVER_WATCH = f"""\
#!/usr/bin/python3
# Report the driver's status once a second, and write its pats as lab-patter writes its own.
import json, time
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.errors import BmcmedicError

seen, waits = 0, False
with open("{AGENT_TTY}", "wb", buffering=0) as out, open("{PATS}", "a", buffering=1) as log:
    while True:
        try:
            with DriverClient(timeout_s=10) as client:
                while True:
                    status = client.status()
                    now = time.monotonic()
                    out.write(b"report " + json.dumps({{"driver": status}}).encode() + b"\\n")
                    watchdog = status["watchdog"] or {{"counts": {{}}, "last_pat_age_s": None}}
                    age_s, pats = watchdog["last_pat_age_s"], watchdog["counts"].get("pats", 0)
                    if pats > seen:
                        seen, waits, took = pats, False, watchdog["pat_latency_s"]
                        log.write(f"done {{now - age_s - took:.3f}} {{took:.3f}} 0\\n")
                    elif pats and not waits and age_s > 2 * watchdog["pat_period_s"]:
                        waits = True
                        log.write(f"sent {{now - age_s + watchdog['pat_period_s']:.3f}}\\n")
                    time.sleep(1)
        except BmcmedicError:
            time.sleep(0.2)
"""

LAB_FILES = {
    "/usr/lib/lab/ipmi_device.py": IPMI_DEVICE.encode(),
    "/usr/bin/lab-watch": WATCH.encode(),
}
"""Files of every guest of the lab."""

OLD_MONITORING_FILES = {
    "/usr/lib/lab/starter.py": STARTER.encode(),
    "/usr/lib/monitoring/mc": MC_INFO.encode(),
    "/usr/lib/monitoring/6": BRIDGED.encode(),
    "/usr/bin/lab-monitoring": OLD_MONITORING.encode(),
}
PATTER_FILES = {"/usr/bin/lab-patter": PATTER.encode()}
MAINTENANCE_FILES = {"/usr/bin/lab-maintenance": MAINTENANCE.encode()}
FLOOD_FILES = {"/usr/bin/lab-flood": FLOOD.encode()}

REAL_MONITORING_FILES = {"/usr/bin/lab-monitoring": MONITORING.encode()}
DRIVER_WATCH_FILES = {"/usr/bin/lab-driver-watch": DRIVER_WATCH.encode()}
