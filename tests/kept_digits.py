"""The digits, read and resized once for all runs of a process."""

import functools

from smallvit.data import store
from smallvit.data.spec import SPECS
from smallvit.data.split import Decoded


def keep_digits() -> None:
    """Let all runs of this process share the digits, at each size that one has asked for; none may write to them."""
    digits, resized = _read_only(store.read_digits(SPECS["digits"])), store._resized

    @functools.cache
    def digits_at(size: int) -> Decoded:
        return _read_only(resized(digits, size))

    store.read_digits = lambda spec: digits
    store._resized = lambda decoded, size: digits_at(size) if decoded is digits else resized(decoded, size)


def _read_only(digits: Decoded) -> Decoded:
    digits.train.images.flags.writeable = digits.train.labels.flags.writeable = False
    return digits
