"""What `scripts/benchmark` runs: the same sweeps by several contenders, in turn."""
