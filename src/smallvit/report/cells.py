"""How the numbers of tables are written."""

import math

from smallvit.report.numbers import Spread
from smallvit.report.stats import LEVEL

NONE = "\N{EN DASH}"
PLUS_MINUS = " \N{PLUS-MINUS SIGN} "


def length_of(scale: float) -> str:
    """Return how a scaled length is written: `2 % of the full length`."""
    return f"{100 * scale:g} % of the full length"


def scaled_notice(scale: float) -> str:
    """Return what a reader of anything scaled must know, in a sentence."""
    return f"Scaled: every run took {length_of(scale)}, and every number of ours is of such runs"


def length_cell(scale: float) -> str:
    """Return a length in a column of lengths."""
    return "full" if scale == 1 else f"{100 * scale:g} %"


def signed(value: float, form: str) -> str:
    """Return a number with its sign, a real minus; what rounds to nothing has none."""
    text = format(abs(value), form)
    if not any(digit in text for digit in "123456789"):
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


def p_value(p: float) -> str:
    """Return a p value as it is written, to two digits or as many as tell on which side of `LEVEL` it is."""
    if p < 0.0001:
        return "< 0.0001"
    written = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in written if (float(text) < LEVEL) == (p < LEVEL))


def p_is(p: float) -> str:
    """Return a p value as a sentence has it: `p = 0.031`."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def written_spread(spread: Spread) -> str:
    """Return mean and standard deviation with two decimals, or the one value."""
    mean = f"{spread.mean:.2f}"
    return mean if math.isnan(spread.deviation) else f"{mean}{PLUS_MINUS}{spread.deviation:.2f}"


def written_interval(low: float, high: float) -> str:
    """Return the ends of an interval of differences, in points."""
    return f"{signed(low, '.2f')} to {signed(high, '.2f')}"


def whole_seconds(spread: Spread) -> str:
    """Return the least and the most of several runs' seconds: a mean would be that of machines as well."""
    low, high = (f"{limit(spread.values):,.0f}" for limit in (min, max))
    return low if low == high else f"{low} to {high}"


def large(value: int) -> str:
    """Return a count as a person reads it: 188 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        rounded = f"{value / size:#.3g}"
        if float(rounded) >= 1:
            return f"{rounded.removesuffix('.')} {unit}"
    return str(value)
