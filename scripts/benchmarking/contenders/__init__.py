"""Those that are timed: each has a class `Contender` that runs a workload."""
