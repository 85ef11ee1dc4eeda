"""The console that commands and jobs write to."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console() -> "Console":
    """Return a console on standard output that prints names as they are."""
    from rich.console import Console

    # Names of classes and folders are not markup: "[/x]" would raise, ":x:" turn into a picture.
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
