"""What checks the annotated shapes of every call into casejax, under test alone."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float
