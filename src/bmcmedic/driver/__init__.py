"""The in-band driver: the only owner of the interface to the BMC, which a sick BMC cannot starve.

The driver is a process of its own and imports nothing outside the standard library. It holds the
request queues, the breaker, the worker, the watchdog with its pretimeout, and the socket for
clients.
"""
