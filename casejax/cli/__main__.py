"""`python -m casejax.cli` is the `casejax` command."""

import sys

from casejax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
