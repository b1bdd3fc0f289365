"""The `ipmitool` shim: the program that runs in place of the real tool, and its installation."""
