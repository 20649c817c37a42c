"""What the undamaged network says, and whether a sweep can build on it."""
