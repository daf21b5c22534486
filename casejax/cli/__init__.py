"""The command line: one file a command, and what they share.

    main       the list of commands; loads no JAX
    options    flags from the options of a method, and the way a command fails
    sources    flags that say what data is read, and the reading

Nobody but the examples and the benchmarks imports it; they name the module, `from casejax.cli.main import train`.
"""

from casejax.cli.main import COMMANDS, Defaults

__all__ = ["COMMANDS", "Defaults"]
