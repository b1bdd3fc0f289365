"""What the kernel says in /proc and /sys, and the system calls that act on a process."""
