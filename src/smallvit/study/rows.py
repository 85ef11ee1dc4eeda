"""What a study is: rows, each a whole config, and the row that they are compared with."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smallvit.checks import did_you_mean, require, require_known
from smallvit.config import RunConfig, leaves
from smallvit.data.spec import SPECS
from smallvit.errors import UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")

Changes = Mapping[str, Any]
"""Values by dotted field: {"model.depth": 12}."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the paper reports of a row."""

    accuracy: float
    """Percent of the CIFAR-10 test set: the best of the points of one run's curve, every fifth epoch."""
    seconds: float | None = None
    """Of the whole run on one RTX 3090, of distributed rows on several, augmentation on the CPU included."""
    doubt: str = ""
    """What makes it doubtful that it is this row's, as a clause."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a study's table."""

    label: str
    """What a reader calls it."""
    config: RunConfig
    """Its run, at any seed."""
    published: Published | None = None
    parts: tuple[str, ...] = ()
    """Labels of rows whose changes this one has all: what they come to together stands beside their sum."""
    against: tuple[str, ...] = ()
    """Labels of rows, beside the reference, that this one is held against."""
    rank: int = 1
    """What it tells: a budget goes to rank 0 first, all its seeds, then to the next."""

    def at(self, seed: int) -> RunConfig:
        """Return its run at a seed."""
        return replace(self.config, seed=seed)

    @property
    def folder(self) -> str:
        """The folder of its runs: the recipe's name, and the scale where there is one."""
        scale = self.config.scale
        return self.config.recipe if scale == 1 else f"{self.config.recipe}-scale-{scale:g}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table to be: rows, seeds, and the row that the others are compared with."""

    name: str
    title: str
    reference: str
    """Label of the row that the others are compared with."""
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    setting: str = ""
    """What its runs have in common besides their data, in a few words."""

    @property
    def budget(self) -> str:
        """What every run may spend, in a sentence."""
        config = next(row.config for row in self.rows if row.label == self.reference)
        spec, full = SPECS.get(config.data.dataset), config.train.epochs * config.train.passes_per_epoch
        passes = config.length.epochs * config.length.passes_per_epoch
        length = f"{passes} passes" if passes > 1 else "1 pass"
        if config.scale != 1:
            length += f" instead of {full}"
        if spec is not None and spec.test_size:  # elsewhere only the images tell how many are left
            length += f" over {round(spec.train_size * (1 - config.data.val_fraction)):,} images"
        where = _title(config.data.dataset)
        return ", ".join(filter(None, [where[0].upper() + where[1:], length, self.setting]))

    def scaled(self, scale: float) -> "Study":
        """Return the study with every run shortened or lengthened alike, to `scale` times its full length.

        Raises `UsageError` for a scale that leaves less than one pass of a row.
        """
        try:
            rows = tuple(replace(row, config=replace(row.config, scale=scale)) for row in self.rows)
        except UsageError as error:
            raise UsageError(f"--{error}") from None
        return replace(self, rows=rows)

    def on(self, dataset: str | None, root: Path | None = None) -> "Study":
        """Return the study with every row on another data set, which the paper reports nothing of, or on its own one
        where that lies at `root`.

        Raises `UsageError` for one that is not known, and for a folder of images without its `root`.
        """
        own = self.rows[0].config.data.dataset
        if dataset in (None, own):
            return self if root is None else replace(self, rows=tuple(_on(row, own, root) for row in self.rows))

        def moved(row: Row) -> Row:
            recipe = row.config.recipe.removesuffix(f"-{own}")
            if recipe == row.config.recipe or dataset != "cifar10":  # one name, wherever it was moved from
                recipe = f"{recipe}-{dataset}"
            row = _on(row, dataset, root)
            return replace(row, config=replace(row.config, recipe=recipe), published=None)

        title = f"{self.title.removesuffix(f' on {_title(own)}')}, on {_title(dataset)}"
        rows = tuple(map(moved, self.rows))
        return replace(self, name=f"{self.name}-{dataset}", title=title, rows=rows)


def _on(row: Row, dataset: str, root: Path | None) -> Row:
    return replace(row, config=replace(row.config, data=replace(row.config.data, dataset=dataset, root=root)))


def _title(dataset: str) -> str:
    return SPECS[dataset].title if dataset in SPECS else "a folder of images"


def checked(study: Study) -> Study:
    """Return the study; raise `UsageError` for what would leave runs or tables out in silence."""
    seeds = study.seeds
    different = bool(seeds) and len(set(seeds)) == len(seeds)
    require(different, f"study {study.name}: seeds", seeds, "it must be at least one, and each once")
    allowed = "it names files, so allowed are a-z, 0-9, . and -"
    require(bool(_NAME.fullmatch(study.name)), "a study's name", study.name, allowed)
    labels, folders = [row.label for row in study.rows], [row.folder for row in study.rows]
    for what, names in (("label", labels), ("folder, which is its config's recipe,", folders)):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"study {study.name}: two rows have the {what} {twice[0]!r}: each needs its own")
    for row in study.rows:
        require(bool(_NAME.fullmatch(row.config.recipe)), f"study {study.name}: recipe", row.config.recipe, allowed)
    seen: dict[str, str] = {}
    for row in study.rows:
        other = seen.setdefault(row.at(0).digest(), row.label)
        alike = f"it is the same run as {other!r}, and would be counted twice: leave one out"
        require(other == row.label, f"study {study.name}: a row", row.label, alike)
        allowed = "it must be that of all rows, as --scale gives it: a row that trains longer has more train.epochs"
        same = row.config.scale == study.rows[0].config.scale
        require(same, f"study {study.name}: scale of {row.label!r}", row.config.scale, allowed)
        reason = row.config.other_test(study.rows[0].config)
        allowed = f"its test images must be those of {study.rows[0].label!r}, but {reason}"
        require(not reason, f"study {study.name}: a row", row.label, allowed)
    named = {
        "reference": (study.reference,),
        **{f"parts of {row.label!r}": row.parts for row in study.rows},
        **{f"against of {row.label!r}": row.against for row in study.rows},
    }
    for what, wanted in named.items():
        for label in wanted:
            known = f"{did_you_mean(label, labels)}rows are {', '.join(labels)}"
            require(label in labels, f"study {study.name}: {what}", label, known)
    by_label = {row.label: _changes(study, row) for row in study.rows}
    for row in study.rows:
        allowed = "they must be other rows, each once, and not the reference"
        for what, others in (("parts", row.parts), ("against", row.against)):
            fits = len({*others} - {row.label, study.reference}) == len(others)
            require(fits, f"study {study.name}: {what} of {row.label!r}", others, allowed)
        together = {name: value for part in row.parts for name, value in by_label[part].items()}
        odd = sorted(name for name, _ in by_label[row.label].items() ^ together.items()) if row.parts else []
        allowed = "a row with parts must have all of their changes and no other"
        require(not odd, f"study {study.name}: {row.label!r} against its parts", ", ".join(odd), allowed)
    return study


def _changes(study: Study, row: Row) -> dict[str, Any]:
    """Return the fields that make a row another run than the reference, with their values."""
    reference = next(each for each in study.rows if each.label == study.reference)
    pairs = zip(leaves(row.config), leaves(reference.config), strict=True)
    return {name: value for (name, value, counts), (_, before, _) in pairs if counts and value != before}


def changed(config: RunConfig, changes: Changes) -> RunConfig:
    """Return a config with some fields of its sections changed, all of a section's at once.

    Raises `UsageError` for a field that there is not.
    """
    names = [name for name, *_ in leaves(config) if "." in name]
    sections: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in changes.items():
        require_known("field", name, names)
        section, field = name.split(".")
        sections[section][field] = value
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in sections.items()})


def slug(label: str) -> str:
    """Return a label as a part of a folder's name."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in label.lower()).split())
