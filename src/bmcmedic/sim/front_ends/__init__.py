"""The ways into a simulated BMC: LAN, KCS, QEMU's VM protocol, port 0x80, the control endpoint."""
