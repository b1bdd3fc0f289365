"""The `ipmitool` shim: what runs in place of the real tool, and how it is installed."""
