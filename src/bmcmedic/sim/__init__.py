"""Simulated BMCs that get sick the way real ones do, with the hosts they belong to.

`bmc`, `host`, `faults`, `leak`, `watchdog_timer`, `dispatch` and `handlers` are sans-I/O: time is
an argument, so they run in real and in virtual time alike. `front_ends` and `rack` put them on the
network. `virtual_time` is a host in virtual time: threads, CPUs, locks and a KCS interface.
"""
