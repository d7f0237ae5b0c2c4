"""groundup: a language-model laboratory, built from scratch.

Importing the package loads nothing heavy: rooms are imported by name (``groundup.tokenizer``, ``groundup.model``, ...)
and ``import groundup`` brings in neither torch nor numba.
"""

__version__ = "0.1.0"
