"""The metrics for Prometheus: what is read from the BMC, the names, and the HTTP endpoint."""
