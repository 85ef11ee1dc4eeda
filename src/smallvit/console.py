"""The console that commands and jobs write to."""

import io
import itertools
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(*, unread: bool = False) -> "Console":
    """Return a console on standard output that prints names as they are.

    When nobody reads on it raises `BrokenPipeError`. With `unread` it falls silent then, and when it cannot be written
    to for any other reason, a full disk or a terminal that was closed: no run is to end for that.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            if not unread:
                raise BrokenPipeError
            drop_output()

    set_stdout("backslashreplace")
    # Names of classes and folders are not markup: "[/x]" would raise, ":x:" turn into a picture.
    file: Any = _Unread(sys.stdout) if unread else None
    return Plain(file=file, soft_wrap=True, highlight=False, markup=False, emoji=False)


class _Unread:
    """A file that, where it cannot be written to, is like a pipe that nobody reads."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except OSError:
            raise BrokenPipeError from None

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError:
            raise BrokenPipeError from None


def drop_output() -> None:
    """Let what is still written to standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def set_stdout(errors: str, *, encoding: str | None = None) -> None:
    """Have standard output write by `errors` what it cannot encode, such as a file's name that is not UTF-8; and in an
    encoding of its own, if one is named.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


def say(console: "Console", text: str) -> None:
    """Print a text as it is, on any console: names in it are neither markup nor broken, as they are not on a
    `plain_console`.
    """
    console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


MOST_NAMED = 3
"""How many of many files a note names."""


def first_few(names: Iterable[object]) -> str:
    """Return the first names, by commas, and dots where there are more."""
    named = [printable(str(name)) for name in itertools.islice(names, MOST_NAMED + 1)]
    return ", ".join([*named[:MOST_NAMED], *(["..."] if len(named) > MOST_NAMED else [])])


def is_live(console: "Console") -> bool:
    """Return whether what changes as it goes may be drawn on a console."""
    return console.is_interactive and not console.quiet


def composed(name: str) -> str:
    """Return a class's name as it compares: an accent may be a character of its own, as macOS has it, or none."""
    return unicodedata.normalize("NFC", name)


def printable(text: str) -> str:
    """Return the text with the bytes of files' names that are not UTF-8 as escapes, as standard error has them,
    whatever the locale; so, too, what a terminal would obey: newlines and other controls.
    """
    with suppress(UnicodeEncodeError):  # half a character that stands for no byte
        text = text.encode(errors="surrogateescape").decode(errors="surrogateescape")
    text = text.encode(errors="backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
