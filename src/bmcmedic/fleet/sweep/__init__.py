"""A sweep asks many BMCs at once whether they answer. `bmc_probe` is one BMC, `prober` all."""
