"""Weight files of other programs: one reader per format, and recipes that map names and layouts.

A reader turns a path into `Weights`, the names, shapes and types of the arrays, each read when it
is asked for. A `Recipe` says what a network's parameters are called in such a file; `fit` checks
the whole file against it and gives the parameters in this package's layout.
"""

from jaxrobust.porting.files import read_weights
from jaxrobust.porting.fit import fit
from jaxrobust.porting.recipes import Recipe
from jaxrobust.porting.weights import Header, Weights

__all__ = ["Header", "Recipe", "Weights", "fit", "read_weights"]
