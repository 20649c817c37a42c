"""What survives a crash: checkpoints that are verified, and a lock on a folder."""
