"""The agent on a host, beside the driver: it watches, relieves, measures and reports.

It runs with ordinary priority and few rights, and asks the BMC only through the driver's socket.
"""
