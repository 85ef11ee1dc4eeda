"""What every config asks of its fields, and the one form of saying no."""

import difflib
import math
import operator
import sys
from collections.abc import Collection
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from smallvit.errors import UsageError

_hints = cache(get_type_hints)


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raise a `UsageError` that names the field, its value and what is allowed, unless `condition` holds."""
    if not condition:
        raise UsageError(f"{field} is {value!r}: {allowed}")


def is_whole(value: object, least: int, most: int | None = None) -> bool:
    """Return whether a value is an integer in the range, ends included; True and False are none."""
    return (
        isinstance(value, int) and not isinstance(value, bool) and least <= value <= (value if most is None else most)
    )


def is_number(value: object, least: int | float = -math.inf, most: int | float = math.inf) -> bool:
    """Return whether a value is a number that a float holds, in the range, ends included; True and False are none."""
    return bool(  # one of NumPy's numbers answers with one of NumPy's
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
        and least <= value <= most
    )


MOST_WHOLE = 10**9
"""Of what is counted, sizes and lengths, where nothing else bounds it: torch holds no number without end."""


MOST_NUMBER = 1e15
"""Of rates, decays and factors of weights: with each other and a batch they make what a 32-bit float still holds."""


def require_whole(field: str, value: object, least: int, most: int | None = MOST_WHOLE) -> None:
    """Require an integer in the range, ends included; of `most` None there is no upper one."""
    allowed = f"from {least} to {most}"
    if most in (None, MOST_WHOLE):
        allowed = f"at most {MOST_WHOLE:,}" if most and is_whole(value, most + 1) else f"at least {least}"
    require(is_whole(value, least, most), field, value, f"it must be a whole number, {allowed}")


def require_number(
    field: str,
    value: Any,
    *,
    least: int | float | None = None,
    above: int | float | None = None,
    most: int | float | None = None,
    below: int | float | None = None,
    or_none: bool = False,
) -> None:
    """Require a number that a float holds, in a range whose ends belong to it (`least`, `most`) or not."""
    ends = {"at least": least, "above": above, "at most": most, "below": below}
    limits = {word: end for word, end in ends.items() if end is not None}
    holds = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}
    fits = is_number(value) and all(holds[word](value, end) for word, end in limits.items())
    allowed = f"it must be a number, {' and '.join(f'{word} {end:g}' for word, end in limits.items())}"
    require(fits or (or_none and value is None), field, value, f"{allowed}, or None" if or_none else allowed)


def require_one_of(field: str, value: object, allowed: tuple[str, ...]) -> None:
    """Require one of some words; the error names the nearest one."""
    if value not in allowed:
        meant = did_you_mean(str(value).lower(), allowed)
        raise UsageError(f"{field} is {value!r}: {meant}allowed are {', '.join(allowed)}")


def require_words(section: str, config: object) -> None:
    """Require of every field of a config that is a `Literal` one of its words."""
    for name, kind in _hints(type(config)).items():
        if get_origin(kind) is Literal:
            require_one_of(f"{section}.{name}", getattr(config, name), get_args(kind))


def require_flag(field: str, value: object) -> None:
    """Require True or False."""
    require(isinstance(value, bool), field, value, "allowed are True and False")


def require_known(kind: str, name: str, names: Collection[str]) -> None:
    """Raise a `UsageError` with the nearest right name unless the name is one of `names`."""
    if name not in names:
        raise UsageError(f"unknown {kind} {name!r}; {did_you_mean(name, names)}allowed are {', '.join(names)}")


def did_you_mean(name: str, names: Collection[str]) -> str:
    """Return "did you mean X? " with the nearest of the names, or nothing where none is near."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}? " if near else ""
