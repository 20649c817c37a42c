"""What JAX and the operating system are asked for: devices, processes, compilation, memory."""
