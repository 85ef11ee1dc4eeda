"""Which smallvit this is: its version, and a hash of its own source, which may be edited without another one; free of
torch, for `--version`.
"""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_SHOWS = ("bench/", "commands/", "report/", "study/")


@cache
def package_version(package: str = "smallvit") -> str:
    """Return the version of a package as it is installed, or words where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # a checkout on Python's path, say


@cache  # of the source as it was at the start
def source_digest() -> str:
    """Return 12 hex digits of a hash of the source, by name and content, without what only shows what was computed."""
    found, package = hashlib.sha256(), Path(__file__).parent
    # What begins with a dot is an editor's: of a file with changes that are not saved, say, a link to nowhere.
    for path in sorted(each for kind in ("py", "cpp") for each in package.rglob(f"[!.]*.{kind}")):
        name = path.relative_to(package).as_posix()
        if not name.startswith(_SHOWS):
            found.update(f"{name}\0".encode() + path.read_bytes())
    return found.hexdigest()[:12]
