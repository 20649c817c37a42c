"""Sums per trial and block, which add up in any order."""
