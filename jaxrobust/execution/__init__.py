"""Runs trials on the devices of this process: how much at a time, and the sums that come of it."""
