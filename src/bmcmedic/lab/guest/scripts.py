"""The guest's init, and its agent, which runs commands for the lab.

The agent reads lines `NUMBER COMMAND-IN-BASE64` from the second serial line. It runs each command
in a process of its own, and answers `end NUMBER STATUS OUTPUT-IN-BASE64` when the command has
ended. `hello BOOT-ID UPTIME` reports that the guest is up. Any program in the guest may write a
line `report WHAT` to the serial line, in one write: that costs the guest almost nothing, while a
command costs it a few processes. The kernel's console is another line and does not interfere.
"""

AGENT_TTY = "/dev/ttyS1"
JOBS_FOLDER = "/run/agent"
OUTPUT_BYTES_MAX = 512 << 10
"""Longest output of a command that is returned, in bytes: the end of it."""

PREPARE = """\
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin:/sbin HOME=/root
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
hostname guest
ip link set lo up
while read -r module; do
    insmod /mod/${module%% *}.ko $(echo "$module" | cut -s -d' ' -f2-)
done </etc/modules"""
"""The first lines of every init of the guest."""

INIT = f"""\
#!/bin/busybox sh
{PREPARE}
exec /bin/busybox init
"""

INITTAB = "null::respawn:/etc/agent\n"
"""The table of busybox's init, which starts the agent and reaps orphans."""

AGENT = f"""\
#!/bin/sh
export PATH=/usr/bin:/bin:/sbin HOME=/root
mkdir -p {JOBS_FOLDER}
cd /root
stty -F {AGENT_TTY} raw -echo
exec <{AGENT_TTY} 3>{AGENT_TTY}
echo "hello $(cat /proc/sys/kernel/random/boot_id) $(cut -d' ' -f1 /proc/uptime)" >&3
while read -r number command; do
    # No child of this shell may end while it reads: it would lose what it has read of the line.
    # The kernel does one write to a line after the other, so each answer is one write.
    (
        (
            place={JOBS_FOLDER}/$number
            echo "$command" | base64 -d >$place.sh
            setsid sh $place.sh >$place.out 2>&1 </dev/null 3>&- &
            echo $! >$place.pid
            wait $!
            {{
                printf 'end %s %s ' $number $?
                tail -c {OUTPUT_BYTES_MAX} $place.out | base64 -w 0
                echo
            }} >$place.end
            dd if=$place.end bs={2 * OUTPUT_BYTES_MAX} 2>/dev/null >&3
            rm -f $place.*
        ) &
    )
done
"""
