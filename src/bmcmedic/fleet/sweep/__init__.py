"""`prober` asks many BMCs at once whether they answer, and `bmc_probe` is one of them."""
