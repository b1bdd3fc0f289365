"""What the simulated BMC does with each command: one module a chapter, and `table` lists them."""
