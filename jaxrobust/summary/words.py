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
