"""The steps of one work item on its devices: which programs, on what, in which order."""
