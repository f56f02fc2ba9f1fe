"""`python -m dlsql`: the command line."""

import sys

from dlsql.cli import main

if __name__ == "__main__":
    sys.exit(main())
