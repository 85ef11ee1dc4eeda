"""What a user chooses of a study, read from the words that say it; free of torch."""

import re
from dataclasses import replace

from smallvit.checks import did_you_mean
from smallvit.errors import UsageError
from smallvit.study.rows import Row, Study

MOST_SEEDS = 1000
"""How many a study may have that are not named one by one."""
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_budget(text: str) -> float:
    """Return the seconds of `90s`, `25m`, `1.5h`, `2d`, or of a plain number; raise `UsageError` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|min|h|d|)", text.strip(), re.ASCII)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds < 1e9:
        raise UsageError(f"--budget is {text!r}: it must be a time above 0, such as 90s, 25m or 2h")
    return seconds


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of `3` (that many, from 0) or of `0,1,2`; raise `UsageError` for anything else, and for none."""
    try:
        seeds = tuple(int(word) for word in text.removesuffix(",").split(","))
    except ValueError:
        seeds = ()
    if len(seeds) == 1 and "," not in text:
        if seeds[0] > MOST_SEEDS:
            raise UsageError(f"--seeds is {text!r}: as how many, more than {MOST_SEEDS}; for that seed: {seeds[0]},")
        seeds = tuple(range(seeds[0]))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(
            f"--seeds is {text!r}: it must be how many, at least 1, or different ones with commas: 0,1,2, or 0, for one"
        )
    return seeds


def choose_rows(study: Study, text: str) -> Study:
    """Return the study with the rows alone that are named, by label or folder, with commas between.

    Raises `UsageError` for a name that no row has.
    """
    names: dict[str, Row] = {}
    for row in study.rows:
        names |= {row.label.lower(): row, row.config.recipe.lower(): row, row.folder.lower(): row}
    chosen: list[str] = []
    rest = text.lower()
    while rest := rest.strip(" ,"):  # a label may hold commas itself: the longest one that fits is meant
        fits = [name for name in names if rest == name or rest.startswith((f"{name},", f"{name} ,"))]
        if not fits:
            _refuse(study, rest.split(",")[0].strip(), names)
        name = max(fits, key=len)
        chosen.append(names[name].label)
        rest = rest[len(name) :]
    if not chosen:
        _refuse(study, text, names)
    return replace(study, rows=tuple(row for row in study.rows if row.label in chosen))


def _refuse(study: Study, name: str, names: dict[str, Row]) -> None:
    near = did_you_mean(name, names)
    labels = "; ".join(row.label for row in study.rows)  # labels hold commas
    raise UsageError(f"--rows: {study.name} has no row {name!r}; {near}allowed are {labels}")
