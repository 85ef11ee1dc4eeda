"""The README's numbers are those of committed records, and its commands exist."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smallvit.cli import COMMANDS
from smallvit.recipes import RECIPES
from smallvit.record import RunRecord
from smallvit.report.collect import Collection, collect
from smallvit.study.studies import STUDIES

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("make_results", ROOT / "results" / "make_results.py")
assert _SPEC is not None
assert _SPEC.loader is not None
make_results = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_results)
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def published() -> Collection:
    return collect([ROOT / "results" / "runs"])


def test_committed_records_load_and_match_their_place() -> None:
    records = sorted((ROOT / "results" / "runs").glob("*/seed*.json"))
    assert records
    for path in records:
        config = RunRecord.load(path).run_config()
        recipe = RECIPES.get(config.recipe)
        elsewhere = recipe is not None and config.data.dataset != recipe().data.dataset  # a recipe on other images
        name = f"{config.recipe}-{config.data.dataset}" if elsewhere else config.recipe
        scale = "" if config.scale == 1 else f"-scale-{config.scale:g}"
        assert path == ROOT / "results" / "runs" / f"{name}{scale}" / f"seed{config.seed}.json"
    results = ROOT / "results"
    for folder in ("*-tuning", "few-pictures", "controls"):
        for path in results.glob(f"{folder}/*.json"):
            if path != results / "laptop-tuning" / "trials.json":
                RunRecord.load(path)


_NUMBER = r"([+\N{MINUS SIGN}-]?\d+\.\d+)"
DIFFERENCE = rf"{_NUMBER}%s(?: points)? ?\(?{_NUMBER} to {_NUMBER}"
"""A difference and its interval, as a text or, with ` \\|`, a table has them."""


def differences_in(text: str, between: str = "") -> list[tuple[str, ...]]:
    found = re.findall(DIFFERENCE % between, " ".join(text.split()))
    return [tuple(value.replace("\N{MINUS SIGN}", "-") for value in each) for each in found]


FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "least"),
    [(README.partition("What short runs say so far")[2].partition("## Install")[0], 7), (FINDINGS, 30)],
    ids=["readme", "findings"],
)
def test_the_differences_that_are_told_stand_in_tables(text: str, least: int) -> None:
    """Some as losses, without the sign, and to one decimal."""
    told = differences_in(text)
    assert len(told) >= least
    tables = [differences_in(path.read_text(), r" \|") for path in (ROOT / "results").glob("*.md")]
    standing = [tuple(map(float, each)) for table in tables for each in table]
    for each in told:
        digits = len(each[0].partition(".")[2])
        values = tuple(map(float, each))
        as_gains = [tuple(round(value, digits) for value in row) for row in standing]
        as_losses = [tuple(round(-value, digits) for value in (row[0], row[2], row[1])) for row in standing]
        assert values in as_gains or values in as_losses, each


def test_the_readmes_laptop_without_bfloat16_is_its_record() -> None:
    record = RunRecord.load(ROOT / "results" / "runs" / "laptop-scale-0.4" / "seed0.json")
    assert f"16 of 40 passes, {100 * record.test.accuracy:.2f} %, one seed" in README


def test_every_record_of_few_pictures_stands_in_its_page() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    records = [RunRecord.load(path) for path in (ROOT / "results" / "few-pictures").glob("*.json")]
    assert records
    for record in records:
        assert f"| {100 * record.test.accuracy:.2f} % |" in page


def test_bfloat16_ends_within_seed_noise_of_float32_as_the_page_says() -> None:
    page = " ".join((ROOT / "docs" / "performance.md").read_text(encoding="utf-8").split())
    exact, fast = (
        RunRecord.load(ROOT / "results" / "precision" / f"small-10-passes-{kind}.json")
        for kind in ("float32", "bfloat16")
    )
    assert (exact.choices.precision, exact.choices.attention) == ("float32", "sdpa")
    assert (fast.choices.precision, fast.choices.attention) == ("bfloat16", "native")
    assert exact.run_config().differences(fast.run_config()) == ["device.precision is float32, not bfloat16"]
    assert abs(100 * (exact.test.accuracy - fast.test.accuracy)) < 0.39  # the deviation between runs of width 96
    for record in (exact, fast):
        assert record.val is not None
    assert f"{100 * exact.test.accuracy:.2f} % of test and {100 * exact.val.accuracy:.2f} of val" in page
    assert f"at {100 * fast.test.accuracy:.2f} and {100 * fast.val.accuracy:.2f}" in page


def test_commands_exist() -> None:
    used = set(re.findall(r"^ {4}smallvit (\w+)", README, flags=re.MULTILINE))
    assert used
    assert used <= set(COMMANDS)
    trained = set(re.findall(r"^ {4}smallvit train (\w+)(?!\S)", README, flags=re.MULTILINE))
    assert trained <= set(RECIPES)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE)) <= targets


def test_the_studies_have_as_many_runs_as_the_pages_say() -> None:
    told = re.findall(r"^ {4}smallvit study (\S+) (.*)# .*?(\d+) runs", README, flags=re.MULTILINE)
    assert len(told) > 2
    for name, options, runs in told:
        study = STUDIES[name]()
        assert int(runs) == len(study.rows) * (1 if "--seeds 1 " in options else len(study.seeds)), name
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\S+)` \| .* \| (\d+) rows, (\d) seeds: (\d+) \|$", page, flags=re.MULTILINE)
    assert [name for name, *_ in listed] == list(STUDIES)
    for name, *counts in listed:
        rows, seeds = len(STUDIES[name]().rows), len(STUDIES[name]().seeds)
        assert [*map(int, counts)] == [rows, seeds, rows * seeds], name


def _anchors(page: Path) -> set[str]:
    """Return what GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")]
    assert len(pages) > 15
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
            file, _, anchor = target.partition("#")
            linked = page.parent / file if file else page
            assert linked.exists(), (page, target)
            assert not anchor or anchor in _anchors(linked), (page, target)


def test_the_published_records_are_sections_and_other_runs(published: Collection) -> None:
    results = ROOT / "results" / "runs"
    section = next(each for each in published.sections if each.study.name == "augmentation")
    assert (section.name, section.scale) == ("augmentation", 1.0)
    seeds = {label: [run.config.seed for run in runs] for label, runs in section.done.items()}
    assert seeds == {label: [0, 1] for label in section.runs}
    assert section.runs["all of them"][1].path == results / "augment-all" / "seed1.json"
    assert {group[0].config.recipe for group in published.others} >= {"quickstart", "small"}
    used = [run.path for each in published.sections for runs in each.runs.values() for run in runs]
    assert {*used, *(run.path for group in published.others for run in group)} == {*results.rglob("seed?.json")}


def test_what_is_made_from_the_records_is_not_stale(published: Collection) -> None:
    """`make results` mends it."""
    for path, text in make_results.pages(published, ROOT).items():
        assert path.exists(), path
        assert path.read_text(encoding="utf-8") == text, path


STEP_TO_BE_MEASURED = {
    "weight decay on the matrices alone",
    "gradients clipped at a norm of 1",
    "rate that falls in a straight line",
    "best three and a straight line",
}
"""Rows of which no step was taken beside the others' since they came: the machine of that day was too unsteady."""


def test_a_step_of_every_row_was_measured_where_one_was(published: Collection) -> None:
    measured = {
        path.stem: json.loads(path.read_text()) for path in (ROOT / "results" / "benchmarks").glob("step-*.json")
    }
    sections = {f"step-{section.name}": section for section in published.sections}
    assert "step-changes" in measured
    for name, found in measured.items():
        lacking = sections[name].done.keys() - found["rows"].keys()
        assert lacking == (STEP_TO_BE_MEASURED if name == "step-changes" else set()), f"{name}: study_step.py anew"


def test_each_study_and_recipe_has_its_figures(published: Collection) -> None:
    """`make results` draws them. Words and numbers are compared: where a label ends, the machine's fonts decide."""
    made = make_results.figures(published, ROOT)
    assert {path.parent.name for path in made} >= {"figures", "quickstart", "small", "laptop"}
    assert set((ROOT / "results" / "figures").iterdir()) <= set(made)
    for path, svg in made.items():
        assert path.exists(), path
        for part in ('aria-label="[^"]*"', "<text[^>]*>([^<]*)</text>"):
            drawn = re.findall(part, path.read_text("utf-8"))
            assert drawn, path
            assert drawn == re.findall(part, svg), path


def test_another_record_would_make_it_stale(tmp_path: Path) -> None:
    """On a copy of two pages and their runs, with a run less."""
    readme, page, runs = tmp_path / "README.md", tmp_path / "results" / "augmentation.md", tmp_path / "results" / "runs"
    for path in (readme, page):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path.relative_to(tmp_path), path)
    for row in STUDIES["augmentation"]().rows:
        shutil.copytree(ROOT / "results" / "runs" / row.config.recipe, runs / row.config.recipe)
    shutil.copytree(ROOT / "results" / "runs" / "quickstart", runs / "quickstart")
    made = make_results.pages(collect([runs]), tmp_path)
    assert made[page] == page.read_text(encoding="utf-8")
    assert "`quickstart` |" in made[readme]
    (runs / "augment-all" / "seed1.json").unlink()
    shutil.rmtree(runs / "quickstart")
    made = make_results.pages(collect([runs]), tmp_path)
    assert made[page] != page.read_text(encoding="utf-8")
    assert "`quickstart` |" not in made[readme]
    readme.write_text("no block")
    with pytest.raises(SystemExit, match="must have one block"):
        make_results.pages(collect([runs]), tmp_path)


def test_the_code_of_the_python_page_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert code.count("import") > 10
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_follows_a_run_from_before_its_first_line_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (code,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def follow(" in each)
    names: dict[str, Any] = {}
    exec(code, names)
    first, second, epoch = {"step": 0, "loss": 2.3}, {"step": 19, "loss": None}, {"epoch": 1, "val": None}
    last = [first, second, epoch]
    later = iter([[], [first], [], [first, second], last])  # made; in training; resumed; in training; finished
    logged: list[dict[str, Any]] = []

    def write(*lines: dict[str, Any]) -> None:
        (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in lines), encoding="utf-8")

    def log(row: dict[str, Any]) -> None:
        logged.append(row)
        if row == second:  # the run ends while what was read before is sent
            write(*last)
            (tmp_path / "record.json").touch()

    monkeypatch.setattr("time.sleep", lambda _: write(*next(later)))
    names["follow"](tmp_path, log)
    assert logged == last
