"""`python -m skipstone`, the same as the `skipstone` command."""

from __future__ import annotations

import sys

from .cli.main import main

sys.exit(main())
