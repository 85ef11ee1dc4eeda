"""What `smallvit` and `python -m smallvit` start."""

import signal
import sys

# Ctrl-C while the rest is still being imported ends it without a traceback; where it is ignored it stays so.
_handler = signal.getsignal(signal.SIGINT)
if _handler is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from smallvit.cli import main  # noqa: E402

signal.signal(signal.SIGINT, _handler)

if __name__ == "__main__":
    sys.exit(main())
