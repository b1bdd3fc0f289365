"""The Unix socket that others ask the driver through: its protocol, its server and a client."""
