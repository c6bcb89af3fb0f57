"""`python -m nextvec` is `nextvec`."""

import sys

from nextvec.cli import main

sys.exit(main())
