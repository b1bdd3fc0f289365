"""What runs in the guest from the start: its init, and the agent that does what it is told.

The agent reads lines `NUMBER COMMAND-IN-BASE64` from the second serial line, runs each command by
itself, and answers `end NUMBER STATUS OUTPUT-IN-BASE64` when it has ended; `hello BOOT-ID UPTIME`
says that the guest is up. Any program in the guest may write a line `report WHAT` to it, in one
write: that costs the guest next to nothing, while a command costs it a few processes. The console
is another line, so nothing that the kernel says disturbs it.
"""

AGENT_TTY = "/dev/ttyS1"
JOBS_FOLDER = "/run/agent"
OUTPUT_BYTES_MAX = 512 << 10
"""Of a command's output the end is kept."""

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
"""Any init of the guest begins so."""

INIT = f"""\
#!/bin/busybox sh
{PREPARE}
exec /bin/busybox init
"""

INITTAB = "null::respawn:/etc/agent\n"
"""init proper, as it reaps whatever is left over."""

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
