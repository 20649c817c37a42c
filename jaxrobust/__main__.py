"""`python -m jaxrobust`: the same as the command `jaxrobust`."""

from jaxrobust.cli import main

main()
