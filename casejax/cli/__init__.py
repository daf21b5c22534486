"""The command line: flags from the options of a method, and the subcommands of `casejax`.

Nobody but the examples and the benchmarks imports it.
"""

from casejax.cli.options import run_command
from casejax.cli.train import Defaults

__all__ = ["run_command", "Defaults"]
