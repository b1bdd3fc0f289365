"""The figures for Prometheus: what is read, what it is called, and the HTTP endpoint."""
