"""Built-in networks: Flax definitions, the zoo of named networks, porting and checkpoints."""
