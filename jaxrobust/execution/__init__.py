"""Runs trials on the devices of this process: what, how much at a time, and what it costs.

`items` lists what there is to run, `Executor` runs it and measures what it costs, `run` counts what
comes of it.
"""
