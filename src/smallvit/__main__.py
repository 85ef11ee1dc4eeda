"""`python -m smallvit` is `smallvit`."""

import sys

from smallvit.cli import main

sys.exit(main())
