"""Plain-text tables, numbers for people, and text that others wrote."""

from collections.abc import Sequence

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB")


def printable(text: str) -> str:
    r"""A text on one line, with escapes for what would not show or would steer a terminal.

    Names of files, of members of archives and of what lies in them, and other libraries' messages
    can hold anything. What reaches a terminal goes through here: `SpecificationError` sees to it
    for errors.

    Example:
        >>> print(printable("a\x1b[2J\n.jpg"))
        a\x1b[2J\n.jpg
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of printable cells as lines with aligned columns, nothing behind the last cell.

    Example:
        >>> print(aligned([("layer", "units"), ("conv1", "64")]))
        layer  units
        conv1  64
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def scaled(number: float) -> str:
    """A large number in three digits with a prefix.

    Example:
        >>> scaled(12_340_000_000), scaled(950)
        ('12.3 G', '950')
    """
    exponent = 0
    while abs(number) >= 999.5 and exponent < len(_PREFIXES) - 1:
        number, exponent = number / 1000, exponent + 1
    return f"{number:.3g} {_PREFIXES[exponent]}".rstrip()


def binary_size(size: float) -> str:
    """Bytes in three digits, by powers of 1024.

    Example:
        >>> binary_size(1536), binary_size(3 * 2**30)
        ('1.5 KiB', '3 GiB')
    """
    exponent = 0
    while size >= 999.5 and exponent < len(_PREFIXES) - 1:
        size, exponent = size / 1024, exponent + 1
    return f"{size:.3g} {_BINARY[exponent]}"


def duration(seconds: float) -> str:
    """A duration in its two greatest units.

    Example:
        >>> duration(0.021), duration(2.5), duration(75.2), duration(90061)
        ('21 ms', '2.5 s', '1 min 15 s', '1 d 1 h')
    """
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    rest, words = round(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        amount, rest = divmod(rest, length)
        if amount or words:
            words.append(f"{amount} {unit}")
    return " ".join(words[:2])
