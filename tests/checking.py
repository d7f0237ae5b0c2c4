"""What checks the annotations: beartype, with an int where a float is asked for, as in the typing rules of Python (PEP 484)."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
