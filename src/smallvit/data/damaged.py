"""What the standard library raises of damaged compressed data, where it is neither an OSError nor an EOFError."""

import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module


def _errors() -> Iterator[type[Exception]]:
    yield zlib.error
    for module, name in (("lzma", "LZMAError"), ("compression.zstd", "ZstdError")):  # zstd since Python 3.14
        with suppress(ImportError):  # a Python without it says so of an archive that needs it
            yield getattr(import_module(module), name)


DAMAGED = tuple(_errors())
