"""The built-in architectures as Flax modules, one file for each family."""
