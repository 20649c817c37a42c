"""The error for a request that cannot be carried out as asked."""


class SpecificationError(ValueError):
    """Bad input, in one line: what was asked, what was found, what is possible."""
