"""The clients of the BMC on a host: which programs they are, who launched them, which are stuck."""
