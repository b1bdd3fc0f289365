"""The front ends of a simulated BMC: LAN, KCS, QEMU's VM protocol, port 0x80, and control."""
