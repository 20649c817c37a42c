"""What a sweep measures: checked, immutable, with a fingerprint."""
