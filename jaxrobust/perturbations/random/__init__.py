"""The random numbers of draws: exact permutations, and JAX's own generator, compiled faster."""
