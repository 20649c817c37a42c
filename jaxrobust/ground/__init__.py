"""What every room stands on: errors, paths, names, and text for people."""
