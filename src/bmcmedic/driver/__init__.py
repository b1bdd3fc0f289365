"""The in-band driver: the one owner of the interface to the BMC, which a sick BMC cannot starve.

It runs as a process of its own and imports nothing outside the standard library: requests and
queues, the breaker, the worker, the watchdog and its pretimeout, the socket that others ask
through.
"""
