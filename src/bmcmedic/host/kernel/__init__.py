"""What the kernel reports in /proc and /sys, and the system calls that act on a process."""
