"""The README's numbers are those of committed records, and its commands exist."""

import re
from pathlib import Path

import pytest

from smallvit.cli import COMMANDS
from smallvit.recipes import RECIPES
from smallvit.record import RunRecord
from smallvit.report.tables import markdown_table
from smallvit.study.tasks import read_records
from smallvit.study.studies import STUDIES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("`"): cells
    for line in README.splitlines()
    if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 6
}


def test_every_recipe_has_a_row() -> None:
    assert list(ROWS) == list(RECIPES)


@pytest.mark.parametrize("recipe", [name for name, cells in ROWS.items() if cells[5]])
def test_a_row_is_its_record(recipe: str) -> None:
    _, _, ours, _, _, link = ROWS[recipe]
    target = re.fullmatch(r"\[seed (\d+)\]\((.+)\)", link)
    assert target is not None
    record = RunRecord.load(ROOT / target[2])
    config = record.run_config()
    assert (config.recipe, config.seed) == (recipe, int(target[1]))
    assert ours == f"{100 * record.test.accuracy:.2f} %"
    assert record.test_read == "once, at the last epoch"


def test_a_number_has_a_record() -> None:
    for cells in ROWS.values():
        assert bool(re.search(r"\d", cells[2])) == bool(cells[5])


def test_committed_records_load_and_match_their_place() -> None:
    records = sorted((ROOT / "results" / "runs").glob("*/seed*.json"))
    assert records
    for path in records:
        config = RunRecord.load(path).run_config()
        assert path == ROOT / "results" / "runs" / config.recipe / f"seed{config.seed}.json"


def test_commands_exist() -> None:
    used = set(re.findall(r"^ {4}smallvit (\w+)", README, flags=re.MULTILINE))
    assert used
    assert used <= set(COMMANDS)
    trained = set(re.findall(r"^ {4}smallvit train (\w+)", README, flags=re.MULTILINE))
    assert trained <= set(RECIPES)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE)) <= targets


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_table_of_the_augmentation_study_is_its_records() -> None:
    study = STUDIES["augmentation"]()
    table = markdown_table(read_records(study, ROOT / "results" / "runs"), study.reference)
    assert table in (ROOT / "results" / "augmentation.md").read_text(encoding="utf-8")
    assert "not run" not in table
