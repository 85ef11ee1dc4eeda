"""The console that the commands write to."""

from smallvit.console import plain_console

__all__ = ["plain_console"]
