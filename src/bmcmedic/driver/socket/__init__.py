"""The Unix socket through which clients use the driver: its protocol, its server and a client."""
