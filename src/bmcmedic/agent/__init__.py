"""The agent on a host, beside the driver: it looks, relieves, measures and reports.

Ordinary priority and few rights; the BMC is only ever asked through the driver's socket.
"""
