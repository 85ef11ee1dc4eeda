"""Which of several ways to do the same is fastest here, measured once and remembered in a file.

The file is a convenience: one that is damaged, of another version or not to be written costs a new measurement.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smallvit.device.choose import TIE, timed, times
from smallvit.errors import SmallvitError, line_of, ran_out_of_memory, telling_line
from smallvit.files import write_json
from smallvit.strict_json import from_json, read, to_json

TURNS = 5
Seconds = dict[str, float | None]
"""By contestant; None for one that does not work here."""


@dataclass(frozen=True, kw_only=True)
class _Memory:
    schema: Literal[1] = 1
    seconds: dict[str, dict[str, float | None]]


def fastest(
    what: str, contestants: Mapping[str, Callable[[], object]], device: str, memory: Path, key: str
) -> tuple[str, str]:
    """Return the name of the fastest contestant, of equals the first, and a reason for a person, in which they are ways
    of `what`.

    What `memory`, a JSON file, holds under `key` is taken instead of a measurement if it covers the contestants; `key`
    names all that the times depend on. A contestant that raises is left out; raises `SmallvitError` where all do.
    Nothing is remembered of that, nor of a measurement in which memory ran out: the next one may find more of it.
    """
    found, why = _remembered(memory).get(key, {}), None
    if not contestants.keys() <= found.keys():
        found, why = measured(contestants, device)
        if contestants.keys() <= found.keys() and any(found.values()):
            _remember(memory, key, found)
    works = {name: seconds for name in contestants if (seconds := found.get(name)) is not None}
    if not works:
        names = ", ".join(contestants)
        told = "; name one to see why" if why is None else f": {why}"
        raise SmallvitError(f"device.{what} is auto: none of {names} works on {device}{told}")
    least = min(works.values())
    best = next(name for name, seconds in works.items() if seconds <= TIE * least)
    others = sorted(works.keys() - {best}, key=lambda name: works[name])
    ratios = ", ".join(f"{times(works[other] / works[best])} {other}'s speed" for other in others)
    return best, f"{best} {what} measured {ratios or 'alone'}"


def measured(contestants: Mapping[str, Callable[[], object]], device: str) -> tuple[Seconds, str | None]:
    """Return each contestant's least seconds over some rounds in turns, after one that warms up, and why the first of
    those that do not work does not.

    The least, since other work adds to one turn or another, and takes from none. One that ran out of memory has no
    entry: it may work at another time.
    """
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    broken: dict[str, str] = {}
    for turn in range(1 + TURNS):
        for name, call in contestants.items():
            if name in broken:
                continue
            try:
                seconds = timed(call, device)
            except (RuntimeError, ValueError) as error:
                broken[name] = line_of(error) or telling_line(error)  # the error itself would keep tensors
                if ran_out_of_memory(error):
                    del taken[name]
            else:
                if turn:
                    taken[name].append(seconds)
    least = {name: None if name in broken else min(times) for name, times in taken.items()}
    return least, next(iter(broken.values()), None)


def _remembered(memory: Path) -> dict[str, Seconds]:
    """Return what the file holds, if it is what this module writes."""
    try:
        entries = from_json(_Memory, read(memory, "memory")).seconds
    except SmallvitError:
        return {}
    least = {key: min((s for s in found.values() if s is not None), default=0.0) for key, found in entries.items()}
    return {key: found for key, found in entries.items() if least[key] > 0}


def _remember(memory: Path, key: str, found: Seconds) -> None:
    with suppress(OSError):  # a read-only home is no reason not to train
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, to_json(_Memory(seconds={**_remembered(memory), key: found})))
