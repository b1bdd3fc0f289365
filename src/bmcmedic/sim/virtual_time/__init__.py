"""A host in virtual time: its threads, its CPUs and locks, and a KCS interface to its BMC."""
