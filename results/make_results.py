"""Makes, from the records in runs/ and benchmarks/ alone, the tables and figures here, the first table of the README,
and the learning curves of the recipes' runs: `make results`.

What stands between the markers is replaced, what people wrote around it stays. A study that has no page yet gets one.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from smallvit.data.spec import SPECS
from smallvit.evaluate import Metrics
from smallvit.files import write_atomically
from smallvit.progress import duration
from smallvit.recipes import RECIPES
from smallvit.report.cells import NONE, large, signed, written_interval, written_spread
from smallvit.report.collect import Collection, collect
from smallvit.report.figures import learning_curve_file
from smallvit.report.numbers import Line, Numbers, Spread, hardware, numbers_of
from smallvit.report.page import read_losses
from smallvit.report.records import Run
from smallvit.report.stats import wilson_interval
from smallvit.report.study_figures import drawings
from smallvit.report.study_tables import study_markdown
from smallvit.report.svg import Drawing, svg_file
from smallvit.report.tables import Table, markdown, markdown_lines, markdown_note

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- made by make results: do not edit -->", "<!-- until here -->"
SHOWN = ("differences", "together", "stack", "latent-width", "cls-tokens", "flops", "curves")
"""Of a study's drawings those that stand under its tables. That of seconds would show other work on the machine."""
_BLOCK = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)


def pages(collection: Collection, root: Path) -> dict[Path, str]:
    """Return each page that the records of a checkout decide, and what it has to hold."""
    found = {root / "README.md": _with_block(root / "README.md", _readme_table(collection, root))}
    for section in collection.sections:
        path, content = root / "results" / f"{section.name}.md", _study(numbers_of(section), root)
        if path.exists():
            found[path] = _with_block(path, content)
        else:
            intro = f"# {section.study.title}\n\n{markdown_lines(f'{section.study.budget}.', 120)}\n\n"
            found[path] = intro + _block(content) + "\n"
    return found


def figures(collection: Collection, root: Path) -> dict[Path, str]:
    """Return SVG by its file: the figures of each study's page, and the learning curve beside each recipe's record."""
    found: dict[Path, str] = {}
    for numbers in map(numbers_of, collection.sections):
        for drawing in _shown(numbers):
            found[root / "results" / _file_of(numbers, drawing)] = svg_file(drawing.title, drawing.draw)
    for run in (run for group in collection.others for run in group):
        if run.config.recipe in RECIPES:
            losses = read_losses(run.path.with_suffix(".metrics.jsonl"))
            found[run.path.with_suffix(".svg")] = learning_curve_file(run.record, losses)
    return found


def _study(numbers: Numbers, root: Path) -> str:
    shown = [
        f"![{each.title}]({_file_of(numbers, each)})\n\n{markdown_lines(each.caption, 120)}" for each in _shown(numbers)
    ]
    return "\n\n".join([study_markdown(numbers).strip(), *_costs(numbers, root), *shown])


def _costs(numbers: Numbers, root: Path) -> list[str]:
    """Return what each row gains and costs, the greatest gain first, if a step of each was measured."""
    section = numbers.section
    path = root / "results" / "benchmarks" / f"step-{section.name}.json"
    if not path.exists():
        return []
    measured, reference = json.loads(path.read_text(encoding="utf-8")), numbers.line(section.study.reference)
    lines = sorted(numbers.lines, key=lambda line: -line.difference.mean if line.difference else 0.0)
    rows = [
        (
            line.label,
            _gain(line),
            f"{line.num_macs / reference.num_macs:.2f}",
            *_step(measured["rows"].get(line.label)),
        )
        for line in lines
    ]
    table = Table(
        name="costs",
        caption=f"{section.study.title}: gain and cost beside {reference.label}, the greatest gain first",
        heading=("row", "gain, points (95 % interval)", "MACs, times", "step, times", "step, ms"),
        rows=rows,
    )
    machine = (
        f"{measured['hardware']['processor']}, {measured['started'][:10]}; {reference.label}: {measured['choices']}"
    )
    note = (
        f"Step: a training step as a run takes it ({machine}), all rows in one process, in turns: a few hundredths are "
        f"noise ([record](benchmarks/{path.name}))."
        + (" A dash: the row came later." if any(row[-1] == NONE for row in rows) else "")
    )
    return [markdown(table).strip(), markdown_note(note)]


def _step(measured: dict[str, float] | None) -> tuple[str, str]:
    """Return the cells of a row's step, dashes where the row came after the measurement."""
    if measured is None:
        return NONE, NONE
    return f"{measured['over_reference']:.2f}", f"{1000 * measured['seconds']:.0f}"


def _gain(line: Line) -> str:
    found = line.difference
    if found is None:
        return "0"
    mean = signed(found.mean, ".2f")
    return f"{mean} ({written_interval(found.low, found.high)})" if found.tested else f"{mean}, no interval"


def _shown(numbers: Numbers) -> list[Drawing]:
    return [drawing for drawing in drawings(numbers) if drawing.name in SHOWN]


def _file_of(numbers: Numbers, drawing: Drawing) -> str:
    return f"figures/{numbers.section.name}-{drawing.name}.svg"


def _with_block(path: Path, content: str) -> str:
    text = path.read_text(encoding="utf-8")
    if len(_BLOCK.findall(text)) != 1:
        raise SystemExit(f"{path} must have one block between {BEGIN} and {END}")
    return _BLOCK.sub(lambda _: _block(content), text)


def _block(content: str) -> str:
    return f"{BEGIN}\n\n{content.strip()}\n\n{END}"


def _readme_table(collection: Collection, root: Path) -> str:
    """Return the recipes that were run at their full length, on any data."""
    runs = {run.record.config_digest: run for group in _groups(collection) for run in group}.values()
    by_config: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_config[replace(run.config, seed=0).digest()].append(run)
    lines = ["| recipe | data | test accuracy | MACs | hardware, training | record |", "|---|---|---|---|---|---|"]
    for name, recipe in RECIPES.items():
        for dataset in SPECS:
            config = recipe()
            found = by_config.get(replace(config, data=replace(config.data, dataset=dataset)).digest())
            if found:
                lines.append(_line(name, found, root))
    return "\n".join(lines)


def _groups(collection: Collection) -> Iterator[Sequence[Run]]:
    for section in collection.sections:
        yield from section.done.values()
    yield from collection.others


def _line(name: str, runs: Sequence[Run], root: Path) -> str:
    config, length, seeds = runs[0].config, runs[0].config.length, len(runs)
    title = SPECS[config.data.dataset].title
    spread = Spread(values=tuple(100 * run.record.test.accuracy for run in runs))
    seconds = defaultdict[str, list[float]](list)  # a mean over machines would be the time of none
    for run in runs:
        seconds[hardware(run.record)].append(run.record.train_seconds)
    place = runs[0].path.parent.relative_to(root)
    cells = [
        f"`{name}`",
        f"{title}, {length.epochs * length.passes_per_epoch} passes",
        f"{written_spread(spread)} %, {seeds} seeds" if seeds > 1 else _of_one_seed(runs[0].record.test),
        large(runs[0].record.num_macs),
        "; ".join(f"{where}, {duration(fmean(each))}" for where, each in seconds.items()),
        f"[{place.name}]({place})",
    ]
    return f"| {' | '.join(cells)} |"


def _of_one_seed(test: Metrics) -> str:
    low, high = wilson_interval(test.correct, test.count)
    return f"{100 * test.accuracy:.2f} % ({100 * low:.2f} to {100 * high:.2f}), one seed"


if __name__ == "__main__":
    records = collect([ROOT / "results" / "runs"])
    for each, text in (pages(records, ROOT) | figures(records, ROOT)).items():
        write_atomically(each, text)
        print(each.relative_to(ROOT))
