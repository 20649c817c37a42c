"""Run folders: checkpoints, locks, results on disk, and how far a run has come."""
