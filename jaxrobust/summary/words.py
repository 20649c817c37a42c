"""What metrics and perturbations are called in text and figures."""

import math


def title(perturbation: str) -> str:
    """A perturbation's name as words.

    Example:
        >>> title("synapse_knockout")
        'Synapse knockout'
    """
    words = perturbation.replace("_", " ")
    return words[:1].upper() + words[1:]


def percent(value: float) -> str:
    """A share in per cent, with one decimal; a dash for NaN.

    Example:
        >>> percent(0.125), percent(float("nan"))
        ('12.5 %', '–')
    """
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def share(mean: float, low: float, high: float) -> str:
    """A mean share in per cent with its interval, as far as that is possible: from 0 to 100.

    Example:
        >>> share(0.427, -0.16, 1.02), share(0.5, float("nan"), float("nan"))
        ('42.7 % (0.0 to 100.0)', '50.0 %')
    """
    if math.isnan(low) or math.isnan(high):
        return percent(mean)
    return f"{percent(mean)} ({100 * max(low, 0):.1f} to {100 * min(high, 1):.1f})"
