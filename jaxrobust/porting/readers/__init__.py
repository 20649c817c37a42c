"""Readers of weight files, one for each format; nothing that a file holds is ever run."""
