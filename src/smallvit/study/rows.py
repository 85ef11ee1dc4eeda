"""What a study is: rows, each a whole config that differs in one place, and the row that they are compared with."""

from dataclasses import dataclass, replace

from smallvit.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a study's table."""

    label: str
    """What a reader calls it."""
    config: RunConfig
    """Its run, at any seed; the recipe's name is the folder of its records."""

    def at(self, seed: int) -> RunConfig:
        """Return its run at a seed."""
        return replace(self.config, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table to be: rows, seeds, and the row that the others are compared with."""

    name: str
    title: str
    budget: str
    """What every run may spend, in a sentence."""
    reference: str
    """Label of the row that the others are compared with."""
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
