"""The I/O: each transport carries one IPMI request to a BMC and its answer back."""
