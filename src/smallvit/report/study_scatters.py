"""The figures of a study that set accuracy against a number of the model: latent width, CLS tokens.

What a row has changed is read from its config, so that they stand in every study that has such rows.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smallvit.config import RunConfig
from smallvit.report.figures import label_scaled, legend_below
from smallvit.report.numbers import Line, Numbers
from smallvit.report.svg import INK, MUTED, PAPER, SERIES, Drawing
from smallvit.study.grids import PARTS

LOW_RANK = ("latent_dim_q", "latent_dim_k", "latent_dim_v", "init")
"""Fields of a model in which the rows of that figure may differ."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LEAST_SPAN = 2.0
"""Points of accuracy that an axis covers at least: closer, the scatter of seeds would look like a finding."""
_ERROR_BARS = {"linewidth": 1.3, "capsize": 2.5, "markersize": 5}
INTERVALS = ", with 95 % intervals over seeds where there are several"


@dataclass(frozen=True, kw_only=True)
class _Point:
    series: str
    x: float
    line: Line


def scatters(numbers: Numbers) -> Iterator[Drawing]:
    """Yield those of the figures that the rows have something to show in."""
    yield from _latents(numbers)
    yield from _tokens(numbers)


def _latents(numbers: Numbers) -> Iterator[Drawing]:
    """Yield accuracy against the width of low-rank projections, a line for each set of them, if there are any."""
    base = _reference_config(numbers)
    if any(base.model.latent_dims):
        return
    points: list[_Point] = []
    for label, config in _configs(numbers):
        latents = {part: dim for part, dim in zip("qkv", config.model.latent_dims, strict=True) if dim is not None}
        # What is low-rank is stored apart, whatever Muon would do with one matrix of them.
        config = replace(config, optim=replace(config.optim, muon_qkv=base.optim.muon_qkv))
        if not latents or len(set(latents.values())) > 1 or not _same_but(base, config, LOW_RANK):
            continue
        share = 100 * next(iter(latents.values())) / config.model.embed_dim
        marked = "" if config.model.init == base.model.init else f", {config.model.init}"
        points.append(_Point(series="".join(latents) + marked, x=share, line=numbers.line(label)))
    if not points:
        return
    width = base.model.embed_dim
    hollow = "Hollow: with other first weights (model.init). " if any("," in point.series for point in points) else ""
    yield Drawing(
        name="latent-width",
        title="Test accuracy by latent width",
        caption="Test accuracy at the last epoch by the width of low-rank queries (q), keys (k) and values (v), a line "
        f"for each set of them{INTERVALS}. Dashed: none is low-rank. {hollow}Lines are moved "
        "sideways a little, to be told apart.",
        draw=lambda: _draw_latents(numbers, points, width),
    )


def _tokens(numbers: Numbers) -> Iterator[Drawing]:
    """Yield accuracy against CLS tokens, a line for each width and number of heads, if rows differ in the tokens."""
    base = _reference_config(numbers)
    models = {
        label: config.model
        for label, config in _configs(numbers)
        if _same_but(base, config, ("num_cls_tokens", "embed_dim", "num_heads"))
    }
    heads_at = defaultdict[int, set[int]](set)
    for model in models.values():
        heads_at[model.embed_dim].add(model.num_heads)
    by_heads = any(len(heads) > 1 for heads in heads_at.values())
    points: list[_Point] = []
    for label, model in models.items():
        heads = f", {model.num_heads} heads" if by_heads else ""
        series = f"width {model.embed_dim}{heads}"
        points.append(_Point(series=series, x=float(model.num_cls_tokens), line=numbers.line(label)))
    if len({point.x for point in points}) < 2:
        return
    yield Drawing(
        name="cls-tokens",
        title="Test accuracy by CLS tokens",
        caption="Test accuracy at the last epoch by the number of CLS tokens, a line for each width"
        f"{' and number of heads' if by_heads else ''}{INTERVALS}. Small dots: single seeds.",
        draw=lambda: _draw_tokens(numbers, points),
    )


def _reference_config(numbers: Numbers) -> RunConfig:
    return numbers.section.runs[numbers.section.study.reference][0].config


def _configs(numbers: Numbers) -> Iterator[tuple[str, RunConfig]]:
    return ((label, runs[0].config) for label, runs in numbers.section.done.items())


def _same_but(base: RunConfig, config: RunConfig, names: Sequence[str]) -> bool:
    """Return whether a config is the run `base`, at any seed, but for these fields of its model."""
    models = [{name: value for name, value in vars(c.model).items() if name not in names} for c in (base, config)]
    rest = replace(config, seed=0, model=base.model).digest() == replace(base, seed=0).digest()
    return rest and models[0] == models[1]


def _draw_latents(numbers: Numbers, points: Sequence[_Point], width: int) -> Figure:
    figure, axes = _figure()
    full = numbers.line(numbers.section.study.reference).last
    axes.axhline(full.mean, color=INK, linewidth=1.1, linestyle="--", label="full q, k and v")
    if not math.isnan(full.half):
        axes.axhspan(full.mean - full.half, full.mean + full.half, color=MUTED, alpha=0.15, linewidth=0)
    present = sorted({point.series for point in points}, key=lambda name: (PARTS.index(name.split(",")[0]), name))
    widest = 0.7 * (len(present) - 1) / 2
    for place, series in enumerate(present):
        shift = 0.7 * place - widest
        mine = sorted((point for point in points if point.series == series), key=lambda point: point.x)
        parts, _, init = series.partition(", ")
        _error_bars(axes, [point.x + shift for point in mine], mine, PARTS.index(parts), series, hollow=init != "")
    shares = sorted({point.x for point in points} | {100.0})
    axes.set_xticks(shares, [f"{share * width / 100:g}\n{share:.3g} %" for share in shares])
    axes.set_xlabel(f"latent width, and as a share of the width of {width}")
    axes.set_xlim(shares[0] - widest - 2, 100 + widest + 2)
    return _named(figure, numbers, 4)


def _draw_tokens(numbers: Numbers, points: Sequence[_Point]) -> Figure:
    figure, axes = _figure()
    series = list(dict.fromkeys(point.series for point in points))
    for index, name in enumerate(series):
        shift = 0.05 * (index - (len(series) - 1) / 2)
        mine = sorted((point for point in points if point.series == name), key=lambda point: point.x)
        _error_bars(axes, [point.x + shift for point in mine], mine, index, name)
        for point in mine:
            values = point.line.last.values
            axes.plot([point.x + shift] * len(values), values, "o", color=MUTED, markersize=2.5, alpha=0.8)
    counts = sorted({int(point.x) for point in points})
    axes.set_xticks(counts)
    axes.set_xlim(counts[0] - 0.4, counts[-1] + 0.4)
    axes.set_xlabel("CLS tokens")
    return _named(figure, numbers, 3)


def _error_bars(
    axes: Axes, x: Sequence[float], points: Sequence[_Point], index: int, label: str, *, hollow: bool = False
) -> None:
    means = [point.line.last.mean for point in points]
    halves = [point.line.last.half for point in points]  # nan, of one seed, draws no bar
    colour, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
    look = _ERROR_BARS | ({"markerfacecolor": PAPER, "linestyle": "dotted"} if hollow else {})
    axes.errorbar(x, means, yerr=halves, color=colour, marker=marker, label=label, **look)  # pyright: ignore[reportArgumentType]


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_ylabel("test accuracy, %")
    axes.grid(axis="y")
    return figure, axes


def span(axes: Axes) -> None:
    """Let the axis of accuracies cover `LEAST_SPAN`."""
    low, high = axes.get_ylim()
    missing = max(0.0, LEAST_SPAN - (high - low)) / 2
    top = min(high + missing, max(high, 100.0))
    axes.set_ylim(min(low - missing, top - LEAST_SPAN), top)


def _named(figure: Figure, numbers: Numbers, columns: int) -> Figure:
    span(figure.axes[0])
    legend_below(figure, columns)
    label_scaled(figure, numbers.section.scale)
    return figure
