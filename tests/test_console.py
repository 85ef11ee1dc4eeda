"""What commands print: names of files, whatever their bytes."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from smallvit.cli import main
from smallvit.console import first_few, plain_console, printable, say

CAFE = "caf\udce9"
"""How Python reads the bytes "caf" and E9, which are not UTF-8, as a file's name."""


def test_a_name_that_is_not_utf_8_can_be_printed(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    plain_console().print(f"note: {CAFE}")
    assert capsysbinary.readouterr().out == b"note: caf\\udce9\n"
    assert printable(f"note: {CAFE}") == r"note: caf\udce9"
    assert printable("\udce6\udc97\udca5") == "\u65e5"  # as a locale of ASCII has a name that is UTF-8
    assert printable("\ud800 \u65e5") == "\\ud800 \u65e5"


def test_what_a_terminal_would_obey_is_an_escape() -> None:
    assert printable("\x1b]0;mine\x07\x9b1m\nnote: all is well") == r"\x1b]0;mine\x07\x9b1m\nnote: all is well"
    assert first_few(["a\rb", Path("c")]) == r"a\rb, c"


def test_any_console_says_a_name_as_it_is() -> None:
    out = io.StringIO()
    name = "pics [old]/[/x] :smile: " + 30 * "long "
    say(Console(file=out, width=40, force_terminal=True), name)
    assert out.getvalue() == f"{name}\n"


def test_commands_may_print_such_a_name(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    main(["--version"])
    print(CAFE)
    assert capsysbinary.readouterr().out.endswith(b"\ncaf\\udce9\n")


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_run_goes_on_where_what_it_says_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[bool] = []
    monkeypatch.setattr("smallvit.console.drop_output", lambda: dropped.append(True))
    monkeypatch.setattr("sys.stdout", Full())
    console = plain_console(unread=True)
    console.print("note")
    console.print("another")
    assert dropped == [True]
    with pytest.raises(OSError, match="No space left"):
        plain_console().print("note")


def test_a_full_disk_under_the_output_is_one_line_and_one_status() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "smallvit", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "smallvit: standard output, or a file: No space left on device\n"


class Unread(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_console_that_nobody_reads_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a run does not: tests/test_cli_runs.py."""
    monkeypatch.setattr("sys.stdout", Unread())
    with pytest.raises(BrokenPipeError):
        plain_console().print("note")
