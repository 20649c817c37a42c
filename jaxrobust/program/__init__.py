"""A traced network as a flat program, and other ways to compute parts of it."""
