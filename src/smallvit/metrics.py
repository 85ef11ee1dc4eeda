"""metrics.jsonl: one JSON object a line, each line written at once, whole or not at all."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from smallvit.files import write_atomically


class MetricsFile:
    """The metrics of a run as it goes; it begins with the lines of the part that a resumed run goes on from."""

    def __init__(self, path: Path, earlier_lines: str = "") -> None:
        write_atomically(path, earlier_lines)
        self.path = path
        self._file = path.open("ab", buffering=0)

    def write(self, row: dict[str, Any]) -> None:
        """Append a line; a full disk is an `OSError`, and leaves no part of it."""
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        if written != len(line):
            self._file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def lines(self) -> str:
        """Return all lines so far."""
        return self.path.read_text(encoding="utf-8")

    def close(self) -> None:
        """Close the file, its lines on the disk: the checkpoints, which have them too, are deleted after the record."""
        os.fsync(self._file.fileno())
        self._file.close()
