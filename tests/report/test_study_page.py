"""The report as the command writes it: a page that stands alone, tables and figures beside it, one line for errors."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from page_reader import Page, assert_stands_alone
from smallvit import cli
from smallvit.record import RunRecord
from smallvit.report.collect import collect
from smallvit.report.numbers import numbers_of
from smallvit.report.study_figures import drawings
from smallvit.report.study_page import NAMES
from smallvit.report.study_tables import study_tables
from smallvit.study.studies import STUDIES
from study_records import fake_record, noisy, write_study

RESULTS = Path(__file__).parents[2] / "results" / "runs"
COPIES = "test: 2 of 300 pictures are in train, too: test/a/0.png"
MakeRun = Callable[..., RunRecord]


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a scaled study, one row of which has one seed, and of one other run."""
    folder = tmp_path_factory.mktemp("scaled")
    study = STUDIES["paper"]().scaled(0.02)
    study = replace(study, rows=study.rows[:3], seeds=(0, 1))
    write_study(study, folder / "runs", noisy(), {study.rows[2].label: 1})
    other = STUDIES["cifar100"]().rows[0].at(3)
    (folder / "runs" / "other").mkdir()
    record = fake_record(other, 50.0, dataset_notes=["7 were grey", COPIES])
    record.save(folder / "runs" / "other" / "record.json")
    assert cli.main(["report", str(folder / "runs"), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_the_page_stands_alone(scaled: Path) -> None:
    page = Page(scaled / "index.html")
    assert_stands_alone(page)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page.source


def test_every_table_figure_and_section_of_scaled_runs_says_so(scaled: Path) -> None:
    text = (scaled / "index.html").read_text()
    section = text[
        text.index('<section aria-labelledby="paper-scale-0.02"') : text.index('aria-labelledby="other-runs"')
    ]
    assert section.count('role="region" aria-label="The paper') == 2
    assert section.count("Scaled: every run took 2 % of the full length") == 2 * 2 + 1  # seen and spoken; and a notice
    assert section.count("<svg") == section.count("<strong>Scaled: 2 % of the full length.</strong>") == 5
    assert section.count("Scaled: 2 % of the full length</text>") == 5
    assert "<strong>Not all runs here have the full length:</strong> some took 2 % of the full length." in text
    assert "one seed in common" in section
    lists = [part.partition("</table>")[0] for part in text.split('aria-label="The records"')[1:]]
    assert [re.findall("<td>(full|2 %)</td>", part) for part in lists] == [["2 %"] * 5, ["full"]]
    assert re.search("<strong>2 rows against baseline: .*1 not tested[.]", section)
    for path in (scaled / "tables").glob("paper*"):
        assert "of the full length" in path.read_text()


def test_what_makes_another_run_too_good_is_told(scaled: Path) -> None:
    section = (scaled / "index.html").read_text().partition('aria-labelledby="other-runs"')[2]
    assert f"/runs/other: {COPIES}</p>" in section
    assert "grey" not in section


def test_the_files_are_those_that_are_named(scaled: Path) -> None:
    tables = {path.name for path in (scaled / "tables").iterdir()}
    assert tables == {
        f"{name}.{kind}"
        for name in ("paper-scale-0.02-numbers", "paper-scale-0.02-differences", "other-runs")
        for kind in ("md", "tex")
    }
    figures = {path.name for path in (scaled / "figures").iterdir()}
    assert figures == {
        f"paper-scale-0.02-{name}.{kind}"
        for name in ("accuracy", "differences", "seconds", "curves", "confusion")
        for kind in ("svg", "png", "pdf")
    }


def test_what_an_earlier_report_left_goes_and_nothing_else(
    scaled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    shutil.copytree(scaled, out)
    earlier = ["tables/paper-together.md", "tables/changes-cifar100-numbers.tex", "tables/paper-scale-1e-05-numbers.md"]
    earlier += ["figures/latents-small-folder-scale-0.5-latent-width.svg", "figures/paper-scale-0.02-seconds.png"]
    half_written = "tables/.changes-numbers.md.4711-0a1b2c3d"
    earlier += ["figures/paper-accuracy.pdf", half_written]
    another_writes = ["figures/.other-runs.png.4712-0a1b2c3d"]
    others = ["tables/notes.md", "tables/mine-numbers.md", "figures/paper.svg", "figures/paper-accuracy.eps"]
    for name in [*earlier, *others, *another_writes]:
        (out / name).write_text("")
    os.utime(out / half_written, (0, 0))
    shutil.copytree(RESULTS / "quickstart", tmp_path / "runs" / "quickstart")
    assert cli.main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    left = {str(path.relative_to(out)) for path in out.glob("*/*")}
    assert left == {*others, *another_writes, "tables/other-runs.md", "tables/other-runs.tex"}
    foreign = ", ".join(str(out / name) for name in ("tables/mine-numbers.md", "tables/notes.md", others[3]))
    assert f"note: {foreign}, ... are not of this report, and stay\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["changes", "latents-small", "cls-tokens-small"])
def test_the_files_of_a_report_are_known_by_their_names(name: str, tmp_path: Path) -> None:
    study = STUDIES[name]()
    write_study(study, tmp_path, noisy(), dict.fromkeys((row.label for row in study.rows[3:]), 1))
    section = next(each for each in collect([tmp_path]).sections if each.name == name)
    numbers = numbers_of(section)
    assert {table.name for table in study_tables(numbers)} <= {*NAMES["tables"]}
    assert {drawing.name for drawing in drawings(numbers)} <= {*NAMES["figures"]}


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["all", "--out", "out"], "out"),
        (["all"], "all/report"),
        (["all", "all/quickstart"], "runs/report"),
        (["all/quickstart", "--out", "out"], "out"),
    ],
)
def test_paths_are_printed_and_a_run_alone_is_no_study(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    place: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(RESULTS / "quickstart", "all/quickstart")
    assert cli.main(["report", *words]) == 0
    printed = [Path(line.split(maxsplit=1)[1]) for line in capsys.readouterr().out.splitlines() if line]
    assert printed == [Path(place) / name for name in ("tables/other-runs.md", "tables/other-runs.tex", "index.html")]
    assert all(path.exists() for path in printed)
    assert "<code>smallvit compare A B</code>" in printed[-1].read_text()


def test_a_run_folder_gets_its_page_again(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(tmp_path / "run")
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"page     {tmp_path / 'run' / 'index.html'}\n"
    page = (tmp_path / "run" / "index.html").read_text()
    assert "test accuracy" in page
    assert "Scaled" not in page


def test_a_report_does_not_replace_a_runs_page(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text("{}")
    (tmp_path / "a" / "index.html").write_text("of the run")
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "a")]) == 2
    assert (
        "is a run's own folder, whose page a report would replace: name another with --out" in capsys.readouterr().err
    )
    assert (tmp_path / "a" / "index.html").read_text() == "of the run"
    (tmp_path / "a").rename(tmp_path / "report")
    assert cli.main(["report", str(tmp_path)]) == 2, "the default folder"
    assert (tmp_path / "report" / "index.html").read_text() == "of the run"


def test_a_report_replaces_no_page_but_smallvits(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(tmp_path / "a")
    mine = tmp_path / "site" / "index.html"
    mine.parent.mkdir()
    mine.write_text("<title>by hand</title>")
    words = ["report", str(tmp_path / "a"), "--out", str(mine.parent)]
    assert cli.main(words) == 1
    assert capsys.readouterr().err == (
        f"smallvit: {mine} is not smallvit's, so it is not replaced: name another folder, or move it away\n"
    )
    assert [path.name for path in mine.parent.iterdir()] == ["index.html"]
    assert mine.read_text() == "<title>by hand</title>"
    mine.unlink()
    assert cli.main(words) == 0
    before = mine.read_text()
    mine.write_text(before + "<!-- of before -->")
    assert cli.main(words) == 0
    assert mine.read_text() == before


def test_a_scaled_run_says_so_on_its_own_page(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path / "run")
    config = replace(record.run_config(), scale=0.5)
    replace(record, config=config.to_json(), config_digest=config.digest()).save(tmp_path / "run" / "record.json")
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "index.html").read_text()
    assert "<strong>Scaled:</strong> this run took 50&nbsp;% of its full length" in page
    assert page.count("Scaled: 50 % of the full length</text>") == 2


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ([], 2, "report needs a folder that holds runs, or several"),
        (["absent"], 2, "DIR is 'absent': it must be a folder that holds runs"),
        (["."], 1, ".: no finished run there; expected record.json or seed<k>.json somewhere below"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *words]) == status
    assert capsys.readouterr().err == f"smallvit: {line}\n"
    assert not list(tmp_path.iterdir())
