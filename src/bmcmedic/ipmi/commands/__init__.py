"""The IPMI commands, one module per chapter of the specification; `registry` has all by number."""
