"""A disk that is soon full, for the tests of what happens then."""

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, options: str) -> Generator[Path]:
    """Mount a tmpfs at a new folder, with the options of mount(8); skip the test where that needs other rights."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"mode=777,{options}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk needs the right to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
