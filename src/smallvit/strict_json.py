"""Dataclasses to canonical JSON and strictly back: no key may be unknown, none may be missing.

Understands what configs and records are made of: dataclasses, str, int, float, bool, None, Path, Literal, unions,
tuple[X, ...], tuple[X, Y], list[X] and dict[str, X].
"""

import dataclasses
import difflib
import hashlib
import json
import math
import sys
import types
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from smallvit.errors import SmallvitError

T = TypeVar("T")
_PLAIN = {int, str, bool}
"""What is its own JSON value, whatever it is."""
_hints = cache(get_type_hints)


def to_json(value: Any) -> Any:
    """Return a dataclass (or what its fields hold) as dicts, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
        return list(items) if _all_of(_PLAIN, items) else [to_json(item) for item in items]
    if isinstance(value, float | str | Path):  # also one of NumPy's, which are of these types, too
        return float(value) if isinstance(value, float) else str(value)
    return value


def from_json(kind: type[T], value: Any, where: str = "config") -> T:
    """Return `value` as the dataclass `kind`; raise a `SmallvitError` that names the key and what is expected.

    A field whose metadata say `{"digest": "unless default"}` was added later: where it is missing it has its default.
    """
    if not isinstance(value, dict):
        raise SmallvitError(f"{where} is {_brief(value)}: expected an object with the fields of {kind.__name__}")
    items = cast("dict[str, Any]", value)
    fields = {field.name: field.metadata for field in dataclasses.fields(cast("Any", kind))}
    for key in items:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(fields)}"
            name = key if key.isprintable() else _brief(key)
            raise SmallvitError(f"{where}.{name} is not known to this version: {hint}")
    needed = (name for name, metadata in fields.items() if metadata.get("digest") != "unless default")
    missing = [name for name in needed if name not in items]
    if missing:
        raise SmallvitError(f"{where}.{missing[0]} is missing")
    hints = _hints(cast("Any", kind))
    return kind(**{name: _convert(hints[name], items[name], f"{where}.{name}") for name in fields if name in items})


def canonical(value: Any) -> str:
    """Return the one JSON text of a JSON value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse(text: str) -> Any:
    """Return the value of a JSON text; raise `ValueError` also for NaN, infinities and repeated keys."""
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read(path: Path | str, what: str) -> Any:
    """Return the value in a JSON file; raise a `SmallvitError` that says that `path` is not a readable `what`."""
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SmallvitError(f"{path} is not a readable {what}: {error}") from None


def digest(value: Any) -> str:
    """Return the sha256 of the canonical JSON text, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse_constant(number)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    if len(items) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return items


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return from_json(cast("type[Any]", kind), value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise _wrong(where, value, "one of " + ", ".join(map(str, arguments)))
    if origin in (list, tuple):
        return _convert_sequence(origin, arguments, value, where)
    if origin is dict and isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in items}
    return _convert_scalar(kind, value, where)


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    options = [a for a in arguments if a is not type(None)]
    if len(options) == 1:
        return _convert(options[0], value, where)
    for option in options:
        try:
            return _convert(option, value, where)
        except SmallvitError:
            continue
    raise _wrong(where, value, " or ".join(getattr(a, "__name__", str(a)) for a in arguments))


def _convert_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list")
    items = cast("list[Any]", value)
    alike = origin is list or arguments[1:] == (...,)
    if alike and arguments[0] in _PLAIN and _all_of({arguments[0]}, items):
        return origin(items)
    kinds = [arguments[0]] * len(items) if alike else list(arguments)
    if len(kinds) != len(items):
        raise _wrong(where, value, f"a list of {len(kinds)}")
    return origin(_convert(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, items, strict=True)))


def _all_of(kinds: set[type], items: Sequence[Any]) -> bool:
    """Return whether all items are of just these types: to look at each in Python takes seconds for the millions of
    numbers that the confusion matrix of a thousand classes has.
    """
    return {*map(type, items)} <= kinds


def _convert_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is not float and type(value) is kind:
        return value
    raise _wrong(where, value, {Path: "a path", float: "a finite number"}.get(kind, kind.__name__))


def _wrong(where: str, value: Any, expected: str) -> SmallvitError:
    return SmallvitError(f"{where} is {_brief(value)}: expected {expected}")


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
