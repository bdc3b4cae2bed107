"""`python -m skipstone`: the same as the `skipstone` command."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
