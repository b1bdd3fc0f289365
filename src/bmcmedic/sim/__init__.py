"""Simulated BMCs that get sick the way real ones do, with the hosts they belong to.

`bmc`, `host`, `faults`, `leak`, `watchdog` and `handlers` are sans-I/O: time is an argument, so
they run in real and in virtual time alike. `lan`, `control` and `rack` put them on the network.
"""
