"""The numbers of a study by hand, and its tables as a reader finds them."""

import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import t, ttest_rel

from smallvit.record import SOURCE, RunRecord
from smallvit.report.cells import NONE, large, p_value, signed
from smallvit.report.collect import Section, collect
from smallvit.report.numbers import Numbers, Spread, numbers_of
from smallvit.report.study_notes import answer, notes
from smallvit.report.study_tables import others_table, study_markdown, study_tables
from smallvit.report.tables import Table, latex, markdown, markdown_note, terminal
from smallvit.study.rows import Published, Study
from smallvit.study.studies import STUDIES
from study_records import fake_record, noisy, write_study

ACCURACIES = {"baseline": [60.0, 61.0, 62.5], "low-rank q": [59.0, 60.5, 61.0], "2 CLS tokens": [63.0]}


def _accuracy(label: str, seed: int) -> float:
    return ACCURACIES[label][seed]


def _study(scale: float = 1.0, *labels: str) -> Study:
    study = STUDIES["paper"]().scaled(scale)
    return replace(study, rows=tuple(row for row in study.rows if row.label in (labels or ACCURACIES)))


def _numbers(folder: Path, study: Study, accuracy: Callable[[str, int], float], seeds: dict[str, int]) -> Numbers:
    write_study(study, folder, accuracy, seeds)
    found = collect([folder]).sections
    return numbers_of(next(section for section in found if section.study.name == study.name))


@pytest.fixture
def numbers(tmp_path: Path) -> Numbers:
    return _numbers(tmp_path, _study(), _accuracy, {"2 CLS tokens": 1})


def _cells(table: Table, label: str) -> dict[str, str]:
    return next(dict(zip(table.heading, row, strict=True)) for row in table.rows if row[0] == label)


def test_the_numbers_are_those_of_the_records(numbers: Numbers) -> None:
    table = study_tables(numbers)[0]
    cells = _cells(table, "low-rank q")
    values = ACCURACIES["low-rank q"]
    assert cells["seeds"] == "3"
    assert cells["last epoch, %"] == f"{fmean(values):.2f} ± {stdev(values):.2f}"
    tops = [max(v, *(v * (1 - 0.5 / epoch) + 0.3 for epoch in range(5, 100, 5))) for v in values]
    assert float(cells["best of curve, %"].split(" ")[0]) == pytest.approx(fmean(tops), abs=0.02)
    assert cells["published, %"] == "93.32"
    assert cells["published, s"] == "4,716"
    assert (cells["training, s"], _cells(table, "2 CLS tokens")["training, s"]) == ("110 to 112", "120")
    assert _cells(table, "2 CLS tokens")["last epoch, %"] == "63.00"
    assert _cells(table, "2 CLS tokens")["published, %"] == NONE


def test_two_seeds_have_a_deviation_and_one_has_none() -> None:
    assert Spread(values=(60.0, 61.0)).deviation == pytest.approx(math.sqrt(0.5))
    assert math.isnan(Spread(values=(60.0,)).deviation)


def test_a_doubt_about_a_published_number_stands_below_it(tmp_path: Path) -> None:
    label = "width 96, 2 CLS tokens"
    found = notes(_numbers(tmp_path, _study(1.0, "baseline", label), lambda label, seed: 60.0 + seed, {}))
    said = [note for note in found if note.startswith(f"Published 93.95 % of {label}: ")]
    assert len(said) == 1
    assert "it may be of width 192, where 1 token has 93.65" in said[0]


@pytest.mark.parametrize("reported", [("baseline", "low-rank q"), ("low-rank q",), ("baseline",)])
def test_a_published_difference_is_of_two_published_numbers(
    reported: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Section, "published", lambda self: {label: Published(accuracy=93.0) for label in reported})
    differing = [
        line.label
        for line in _numbers(tmp_path, _study(), _accuracy, {"2 CLS tokens": 1}).lines
        if line.published_difference is not None
    ]
    assert differing == (["low-rank q"] if len(reported) == 2 else [])


def test_where_classes_are_uneven_the_mean_over_them_has_a_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunRecord, "mean_class_accuracy", lambda self: 0.5 + self.config["seed"] / 100)
    table = study_tables(_numbers(tmp_path, _study(), _accuracy, {"2 CLS tokens": 1}))[0]
    assert _cells(table, "low-rank q")["mean of the classes, %"] == "51.00 ± 1.00"
    assert _cells(table, "2 CLS tokens")["mean of the classes, %"] == "50.00"


def test_rows_of_another_source_are_named(tmp_path: Path) -> None:
    study = _study()

    def told(sources: dict[str, str]) -> list[str]:
        for row in study.rows:
            for seed in (0, 1):  # the first is of before sources were kept
                versions = {SOURCE: sources[row.label]} if seed and row.label in sources else {}
                path = tmp_path / row.folder / f"seed{seed}.json"
                path.parent.mkdir(exist_ok=True)
                fake_record(row.at(seed), 60.0, versions=versions).save(path)
        return [note for note in notes(numbers_of(collect([tmp_path]).sections[0])) if "source" in note]

    assert told({}) == told(dict.fromkeys(ACCURACIES, "0a")) == []
    unlike = "Unlike baseline's run of the same seed, which counts as the row's own doing: another source of smallvit, "
    assert told({**dict.fromkeys(ACCURACIES, "0a"), "low-rank q": "0b"}) == [f"{unlike}1 row (low-rank q)."]
    assert told({"baseline": "0a"}) == [f"{unlike}2 rows (low-rank q; 2 CLS tokens)."], "not known is not the same"


def test_rows_of_other_conditions_are_named(tmp_path: Path) -> None:
    study = _study()

    def told(label: str, seed: int, of_all: dict[str, Any] | None = None, **changes: Any) -> list[str]:
        for row in study.rows:
            for each in (0, 1):
                path = tmp_path / row.folder / f"seed{each}.json"
                path.parent.mkdir(exist_ok=True)
                mine = {**(of_all or {}), **(changes if (row.label, each) == (label, seed) else {})}
                fake_record(row.at(each), 60.0, **mine).save(path)
        return [
            note.partition(": ")[2] for note in notes(numbers_of(collect([tmp_path]).sections[0])) if "Unlike" in note
        ]

    plain = fake_record(study.rows[0].at(0), 60.0)
    assert told("low-rank q", 1) == []
    assert told("low-rank q", 1, num_train=plain.num_train - 1) == ["other training images, 1 row (low-rank q)."]
    moments = {"channel_mean": [0.5, 0.5, 0.5], "channel_std": [0.2, 0.2, 0.2]}
    assert told("low-rank q", 1, moments, channel_mean=[0.4, 0.5, 0.5]) == [
        "other training images, 1 row (low-rank q)."
    ]
    assert told("low-rank q", 1, moments, channel_mean=None, channel_std=None) == [], "not known"
    assert told("baseline", 1, moments, channel_mean=None, channel_std=None) == []
    milan, genoa = ({"hardware": {**plain.hardware, "processor_model": model}} for model in ("25, 1", "25, 17"))
    assert told("low-rank q", 1, milan, **genoa) == [
        "another machine, or number of threads or processes, 1 row (low-rank q)."
    ]
    assert told("low-rank q", 1, milan, hardware=plain.hardware) == []
    one, other = ({"versions": {**plain.versions, SOURCE: source}} for source in ("0a", "0b"))
    for another in (other, {"versions": plain.versions}):  # that of before it was kept is another
        assert told("low-rank q", 1, one, **another) == ["another source of smallvit, 1 row (low-rank q)."]
    assert told("low-rank q", 0, skipped_steps=[3]) == ["other steps left out, 1 row (low-rank q)."]
    assert told("low-rank q", 0, choices=replace(plain.choices, attention="native")) == [
        "another attention, 1 row (low-rank q)."
    ]
    other = {"hardware": {**plain.hardware, "processor": "Another"}, "versions": {**plain.versions, "torch": "2.0"}}
    assert told("baseline", 1, **other) == [
        "another machine, or number of threads or processes, 2 rows (low-rank q; 2 CLS tokens); "
        "another torch, 2 rows (low-rank q; 2 CLS tokens)."
    ]
    assert told("2 CLS tokens", 1, choices=replace(plain.choices, precision="bfloat16")) == [
        "another precision, 1 row (2 CLS tokens)."
    ]


def test_runs_of_a_seed_that_the_reference_has_not_are_held_against_all_of_its_runs(tmp_path: Path) -> None:
    study = _study()

    def told(processor: str) -> list[str]:
        for row in study.rows:
            for seed in (0, 1) if row.label == study.reference else (0, 1, 2):
                path = tmp_path / row.folder / f"seed{seed}.json"
                path.parent.mkdir(exist_ok=True)
                record = fake_record(row.at(seed), 60.0 + seed)
                another = (row.label, seed) == ("low-rank q", 2)
                name = processor if another else f"Processor {seed % 2}"
                replace(record, hardware={**record.hardware, "processor": name}).save(path)
        return [note for note in notes(numbers_of(collect([tmp_path]).sections[0])) if "Unlike" in note]

    assert told("Processor 0") == told("Processor 1") == []
    assert told("Processor 2") == [
        "Unlike baseline's run of the same seed, or all of its runs where it has not that seed, which counts as the "
        "row's own doing: another machine, or number of threads or processes, 1 row (low-rank q)."
    ]


def test_that_the_source_is_not_known_to_be_the_same_is_told(tmp_path: Path) -> None:
    study, source = _study(), {SOURCE: "0a"}
    versions = fake_record(study.rows[0].at(0), 60.0).versions

    def told(*without: str) -> list[str]:
        for row in study.rows:
            path = tmp_path / row.folder / "seed0.json"
            path.parent.mkdir(exist_ok=True)
            mine = versions if row.label in without else versions | source
            fake_record(row.at(0), 60.0, versions=mine).save(path)
        return [note for note in notes(numbers_of(collect([tmp_path]).sections[0])) if "not kept" in note]

    assert told() == told("low-rank q") == told("baseline") == []
    assert told("baseline", "low-rank q") == ["Source of smallvit not kept, so perhaps another: 1 row."]
    assert told(*ACCURACIES) == ["Source of smallvit not kept, so perhaps another: 2 rows."]


def test_rows_that_were_measured_on_what_they_were_trained_on_are_named(tmp_path: Path) -> None:
    study, note = _study(), "test: 2 of 300 pictures are in train, too: test/a/0.png"
    for row in study.rows:
        for seed in (0, 1):
            path = tmp_path / row.folder / f"seed{seed}.json"
            path.parent.mkdir(exist_ok=True)
            spoilt = row.label == "low-rank q"
            fake_record(row.at(seed), 60.0, dataset_notes=["7 were grey", *([note] if spoilt else [])]).save(path)
    said = notes(numbers_of(collect([tmp_path]).sections[0]))
    assert f"Too good, perhaps, 1 row (low-rank q): {note}." in said
    assert not any("grey" in each for each in said)


def test_rows_of_other_seeds_are_explained(tmp_path: Path) -> None:
    even = _numbers(tmp_path / "even", _study(1.0, "baseline", "low-rank q"), _accuracy, {})
    assert not any("other seeds" in note for note in notes(even))
    assert any(
        "Rows with other seeds than baseline: their difference" in note
        for note in notes(_numbers(tmp_path, _study(), _accuracy, {"2 CLS tokens": 1}))
    )


def test_a_p_value_is_on_the_side_of_the_verdict() -> None:
    assert [p_value(p) for p in (0.0, 9e-5, 1.0, 0.0312, 0.0499, 0.04996, 0.0501, 0.05)] == [
        *("< 0.0001", "< 0.0001", "1", "0.031", "0.0499", "0.04996", "0.05", "0.05")
    ]


def test_differences_are_paired_and_stand_beside_the_published_ones(numbers: Numbers) -> None:
    table = study_tables(numbers)[1]
    cells = _cells(table, "low-rank q")
    expected = ttest_rel(ACCURACIES["low-rank q"], ACCURACIES["baseline"])
    interval = expected.confidence_interval(0.95)
    mean = fmean(ACCURACIES["low-rank q"]) - fmean(ACCURACIES["baseline"])
    assert cells["difference, points"] == signed(mean, ".2f")
    assert cells["95 % interval"] == f"{signed(interval.low, '.2f')} to {signed(interval.high, '.2f')}"
    assert float(cells["p (Holm)"]) == pytest.approx(expected.pvalue, rel=0.05)
    assert cells["verdict"] == ("resolved" if expected.pvalue < 0.05 else "not resolved")
    assert cells["published difference"] == signed(-0.33, ".2f")
    assert cells["ours less published"] == signed(mean + 0.33, ".2f")
    assert int(cells["seeds to resolve the published"]) > 3
    assert any("a power of 80 % at Holm's first step, 5 % / 2, whatever" in note for note in notes(numbers))
    assert [row[0] for row in table.rows] == ["low-rank q", "2 CLS tokens"]


def test_changes_together_stand_beside_the_sum_of_their_gains(tmp_path: Path) -> None:
    study = replace(STUDIES["latents-small"](), seeds=(0, 1))
    labels = ("full q, k and v", "q at 24 of 96", "k at 24 of 96", "qk at 24 of 96", "kv at 24 of 96")
    study = replace(study, rows=tuple(row for row in study.rows if row.label in labels))
    means = dict(zip(labels, (70.0, 69.0, 68.5, 66.0, 50.0), strict=True))

    def accuracy(label: str, seed: int) -> float:
        return means[label] + (0.3 if seed else 0.0) + (0.1 if (label, seed) == (labels[1], 1) else 0.0)

    found = _numbers(tmp_path, study, accuracy, {})
    together, pairs = study_tables(found)[-2:]
    (row,) = together.rows  # of kv one part was not run
    cells = dict(zip(together.heading, row, strict=True))
    assert cells["row (its parts)"] == "qk at 24 of 96 (q at 24 of 96 + k at 24 of 96)"
    assert cells["gain, points"] == signed(-4.0, ".2f")
    assert cells["sum of parts"] == signed(-2.45, ".2f")
    assert cells["gain less sum"] == signed(-1.55, ".2f")
    assert cells["verdict"] == "resolved"
    assert [row[:3] for row in pairs.rows] == [("k at 24 of 96", "q at 24 of 96", signed(-0.55, ".2f"))]  # v was not


def test_rows_against_others_than_the_reference_have_the_tables_deviation(tmp_path: Path) -> None:
    """Of whole blocks that is the two-way analysis of variance, corrected for these pairs alone."""
    study = STUDIES["cls-tokens-small"]()
    draws = np.random.default_rng(3)
    values = {row.label: 70 + draws.integers(-80, 80, len(study.seeds)) / 100 for row in study.rows}
    found = _numbers(tmp_path, study, lambda label, seed: float(values[label][seed]), {})
    assert [(each.label, each.against) for each in found.pairs] == [
        (f"width 192, {count} CLS tokens", "width 192, 1 CLS token") for count in (2, 3, 4)
    ]
    cells = np.array(list(values.values()))
    residuals = cells - cells.mean(0) - cells.mean(1, keepdims=True) + cells.mean()
    rows, seeds = cells.shape
    freedom = (rows - 1) * (seeds - 1)
    error = np.sqrt(2 / seeds * np.square(residuals).sum() / freedom)
    p_values = []
    for each in found.pairs:
        mean = values[each.label].mean() - values[each.against].mean()
        half = t.ppf(0.975, freedom) * error
        assert (each.difference.mean, each.difference.low) == pytest.approx((mean, mean - half))
        p_values.append(2 * t.sf(abs(mean) / error, freedom))
    assert min(each.difference.p_holm for each in found.pairs) == pytest.approx(min(1, 3 * min(p_values)))
    table = study_tables(found)[-1]
    assert table.caption.endswith("rows against other rows than the reference")
    assert [row[:2] for row in table.rows] == [(each.label, each.against) for each in found.pairs]


def test_a_pair_that_no_seed_links_is_left_out(tmp_path: Path) -> None:
    study = STUDIES["cls-tokens-small"]()
    for seed, labels in enumerate(({"width 96, 1 CLS token", "width 192, 1 CLS token"}, {"width 192, 2 CLS tokens"})):
        rows = tuple(row for row in study.rows if row.label in labels)
        write_study(replace(study, rows=rows, seeds=(seed,)), tmp_path, noisy())
    (section,) = collect([tmp_path]).sections
    assert section.pairs == [("width 192, 2 CLS tokens", "width 192, 1 CLS token")]
    assert numbers_of(section).pairs == []


def test_changes_together_whose_gain_no_seeds_tell_are_left_out(tmp_path: Path) -> None:
    """The row has a seed with one of its parts, and the reference one with the other: so the excess alone is known."""
    study = STUDIES["latents-small"]()
    pairs = (("full q, k and v", "q at 24 of 96"), ("k at 24 of 96", "qk at 24 of 96"))
    for seed, labels in enumerate(pairs):
        write_study(
            replace(study, rows=tuple(row for row in study.rows if row.label in labels), seeds=(seed,)),
            tmp_path,
            noisy(),
        )
    (section,) = collect([tmp_path]).sections
    assert [row.label for row in section.together] == ["qk at 24 of 96"]
    found = numbers_of(section)
    assert found.together == []
    assert "nan" not in study_markdown(found)


def test_the_answer_counts_the_verdicts_of_the_table(tmp_path: Path) -> None:
    means = {"baseline": 60.0, "low-rank q": 57.0, "low-rank k": 60.0, "low-rank v": 60.0}
    means |= {"2 CLS tokens": 64.0, "whitening": 62.0}

    def accuracy(label: str, seed: int) -> float:
        return means[label] + 0.5 * seed + (0.1 if label == "baseline" and seed == 1 else 0.0)

    found = _numbers(tmp_path, _study(1.0, *means), accuracy, {"whitening": 1, "low-rank v": 2})
    verdicts = [row[-4] for row in study_tables(found)[1].rows]
    assert sorted(verdicts) == ["not resolved", "not resolved", "not tested", "resolved", "resolved"]
    cells = {row[0]: row[1:3] for row in study_tables(found)[1].rows}
    gain, interval = cells["2 CLS tokens"]
    low, _, high = cells["low-rank v"][1].split(" ")  # of two seeds, so the wider of two
    half = (float(high.replace("\N{MINUS SIGN}", "-")) - float(low.replace("\N{MINUS SIGN}", "-"))) / 2
    assert re.sub(" What is not resolved.*?points[.]", "", answer(found)) == (
        "5 rows against baseline: 1 better, 1 worse, 2 not resolved, 1 not tested. "
        f"The greatest gain: 2 CLS tokens, {gain} points ({interval}; the greatest of 4, so rather too great)."
    )
    widest = re.search("intervals of up to \N{PLUS-MINUS SIGN}(.*?) points", answer(found))
    assert widest is not None
    assert float(widest[1]) == pytest.approx(half, abs=0.011)
    assert study_markdown(found).startswith("5 rows against baseline: ")
    worse = _numbers(tmp_path / "worse", _study(1.0, "baseline", "low-rank q"), accuracy, {})
    assert answer(worse) == "1 row against baseline: 1 worse."


def test_the_greatest_gain_is_one_that_is_resolved(tmp_path: Path) -> None:
    def accuracy(label: str, seed: int) -> float:
        means = {"baseline": 60.0, "low-rank q": 61.2, "2 CLS tokens": 61.15}
        return means[label] + 0.4 * ((2 * seed + len(label)) % 3)

    found = _numbers(tmp_path, replace(_study(), seeds=(0, 1, 2, 3, 4)), accuracy, {"2 CLS tokens": 2})
    verdicts = {row[0]: row[-4] for row in study_tables(found)[1].rows}
    assert verdicts == {"low-rank q": "resolved", "2 CLS tokens": "not resolved"}
    assert "The greatest gain: low-rank q, " in answer(found)


def test_a_row_that_shares_no_seed_is_counted(tmp_path: Path) -> None:
    study = replace(_study(1.0, "baseline", "low-rank q", "whitening"), seeds=(0, 1, 2, 7))
    for row in study.rows:
        for seed in {"low-rank q": (7,)}.get(row.label, (0, 1, 2)):
            value = 60.0 + len(row.label) / 5 + (0.1 if (row.label, seed) == ("baseline", 1) else 0.0)
            path = tmp_path / row.folder / f"seed{seed}.json"
            path.parent.mkdir(exist_ok=True)
            fake_record(row.at(seed), value).save(path)
    found = numbers_of(next(each for each in collect([tmp_path]).sections if each.study.name == "paper"))
    assert re.match("2 rows against baseline: 1 .*?, 1 not tested[.]", answer(found))
    shown = {row[0]: row[2:5] for row in study_tables(found)[1].rows}
    assert shown["low-rank q"] == ("no seed in common", NONE, "not tested")


def test_without_a_test_no_note_explains_one(tmp_path: Path) -> None:
    found = _numbers(tmp_path, _study(), _accuracy, {"low-rank q": 1, "2 CLS tokens": 1, "baseline": 1})
    assert not any("p values" in note for note in notes(found))
    odd = _numbers(tmp_path / "odd", _study(), lambda label, seed: ACCURACIES[label][0] + seed, {})
    assert not any("p values" in note for note in notes(odd))
    assert any("none is tested. Rows and seeds leave a deviation of 0.00 points" in note for note in notes(odd))


def test_pairs_that_are_tested_are_explained_where_no_difference_from_the_reference_is(tmp_path: Path) -> None:
    """As where the reference's further seeds failed."""
    values = {"low-rank q": (59.0, 60.6, 61.1), "2 CLS tokens": (62.0, 63.5, 64.1), "baseline": (60.0,)}
    study = _study()
    rows = [replace(row, against=("low-rank q",)) if row.label == "2 CLS tokens" else row for row in study.rows]
    counts = {label: len(each) for label, each in values.items()}
    found = _numbers(tmp_path, study, lambda label, seed: values[label][seed], counts)
    found = numbers_of(replace(found.section, study=replace(study, rows=tuple(rows))))
    assert [pair.difference.tested for pair in found.pairs] == [True]
    said = " ".join(notes(found))
    assert "intervals and p values are Student's t with one deviation" in said
    assert "corrected by Holm" in said
    assert "none is tested" not in said
    assert "share its mean" not in said


@pytest.mark.parametrize(("last", "told"), [(48.0, True), (59.8, False)])
def test_a_row_whose_seeds_scatter_more_than_the_others_is_named(tmp_path: Path, last: float, told: bool) -> None:
    """As where one of its runs diverged: the one deviation hides what the other rows show."""
    values = {"low-rank q": (59.0, 59.4, last), "2 CLS tokens": (62.0, 62.5, 62.2), "baseline": (60.0, 60.2, 60.4)}
    found = _numbers(tmp_path, _study(), lambda label, seed: values[label][seed], dict.fromkeys(values, 3))
    named = [note for note in notes(found) if "scatter by" in note]
    start = "The seeds of low-rank q scatter by 6.47 points, more than those of the other rows do (F test, p < 0.0001"
    assert [note.startswith(start) for note in named] == [True] * told
    assert not told or named[0].endswith("a report of the others' folders leaves it out.")


def test_a_reference_whose_seeds_scatter_more_makes_all_differences_less_sure(tmp_path: Path) -> None:
    values = {"low-rank q": (59.0, 59.4, 59.8), "2 CLS tokens": (62.0, 62.5, 62.2), "baseline": (60.0, 60.2, 49.0)}
    counts = dict.fromkeys(values, 3)
    found = _numbers(tmp_path / "3", _study(), lambda label, seed: values[label][seed], counts)
    (named,) = [note for note in notes(found) if "scatter by" in note]
    assert named.startswith("The seeds of baseline scatter by 6.41 points")
    assert named.endswith("All differences from it are less sure than their intervals say.")
    two = _numbers(
        tmp_path / "2", _study(1.0, "baseline", "low-rank q"), lambda label, seed: values[label][seed], counts
    )
    assert len(two.lines) == 2
    assert not any("scatter by" in note for note in notes(two)), "its pairs have the scatter of both"


def test_without_a_difference_there_is_no_answer(tmp_path: Path) -> None:
    found = _numbers(tmp_path, _study(), _accuracy, dict.fromkeys(ACCURACIES, 1))
    assert answer(found) == "No difference from baseline is tested: that takes several seeds in common."
    assert answer(replace(found, lines=found.lines[:1])) == ""
    even = _numbers(tmp_path / "even", _study(), lambda label, seed: ACCURACIES[label][0] + seed, {})
    assert (
        answer(even) == "No difference from baseline is tested: all seeds differ by the same, which tells no scatter."
    )


def test_one_seed_says_so(numbers: Numbers) -> None:
    cells = _cells(study_tables(numbers)[1], "2 CLS tokens")
    assert (cells["95 % interval"], cells["p (Holm)"], cells["verdict"]) == (
        "one seed in common",
        NONE,
        "not tested",
    )
    assert cells["difference, points"].startswith("+")


def test_one_seed_of_every_row_has_no_interval_at_all(tmp_path: Path) -> None:
    seeds = dict.fromkeys(ACCURACIES, 1)
    table = study_tables(found := _numbers(tmp_path, _study(), _accuracy, seeds))[1]
    assert {row[2] for row in table.rows} == {"one seed in common"}
    assert math.isnan(found.fit.deviation)
    assert any("Without several seeds in common nothing tells how far seeds scatter" in note for note in notes(found))
    assert _cells(table, "low-rank q")["seeds to resolve the published"] == NONE


def test_scaled_numbers_say_so_everywhere(tmp_path: Path) -> None:
    found = _numbers(tmp_path, _study(0.02), _accuracy, {"2 CLS tokens": 1})
    for table in study_tables(found):
        assert "Scaled: every run took 2 % of the full length" in table.caption
        assert {cell for row in table.rows for cell in row[1:2]} == {"2 %"}
        assert table.heading[1] == "length"
        assert r"2 \% of the full length" in latex(table)
        assert "2 % of the full length" in markdown(table)
    assert "Scaled: every run took 2 % of the full length" in study_markdown(found)
    headings = {heading for table in study_tables(found) for heading in table.heading}
    assert "published difference" in headings
    assert "ours less published" not in headings, "of another length"
    group = [list(runs) for runs in found.section.done.values()]
    others = others_table(group)
    assert "some are scaled" in others.caption
    assert {_cells(others, row[0])["length"] for row in others.rows} == {"2 %"}


def test_the_full_length_is_not_called_scaled(numbers: Numbers) -> None:
    assert "caled" not in study_markdown(numbers)
    assert "length" not in study_tables(numbers)[0].heading


def test_the_best_of_val_is_marked_and_explained(tmp_path: Path) -> None:
    study = STUDIES["augmentation"]()
    found = _numbers(tmp_path, replace(study, rows=study.rows[:2]), noisy(), {})
    table = study_tables(found)[0]
    for row in table.rows:
        assert _cells(table, row[0])["best of curve, %"].startswith("val ")
    assert "published, %" not in table.heading
    assert any("so it is no test accuracy" in note for note in notes(found))


def test_rows_that_were_not_run_are_named(tmp_path: Path) -> None:
    found = _numbers(tmp_path, _study(1.0, "baseline", "whitening"), noisy(), {})
    (note,) = (note for note in notes(found) if note.startswith("Not run"))
    assert note.startswith("Not run: 18 of 20 rows (without AutoAugment; ")
    assert note.endswith("; and 10 more).")


def test_lines_of_markdown_are_no_longer_than_the_house_has_them(numbers: Numbers) -> None:
    assert all(len(line) <= 120 for line in study_markdown(numbers).splitlines() if line.startswith(("-", "  ")))


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=12)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), CELLS)
def test_any_cell_stays_in_its_column(rows: list[tuple[str, str]], caption: str) -> None:
    table = Table(name="t", caption=caption, heading=("a", "b"), rows=rows)
    body = latex(table).split("\\hline\n")[2].splitlines()
    assert len(body) == len(rows)
    for line in body:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == 1
        assert not re.search(r"(?<!\\)[%#_]", line)
        assert not re.search(r"(?<!\$)[<>|]|[<>|](?!\$)", line)
    lines = markdown(table).rpartition(".**\n\n")[2].splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines)


def test_a_table_is_whole_in_a_terminal_of_any_width_or_not_there(numbers: Numbers) -> None:
    for table in study_tables(numbers):
        words = {word for line in (table.heading, *table.rows) for cell in line for word in cell.split()}
        drawn = {width: terminal(table, width) for width in range(30, 160)}
        assert drawn[30] is None
        assert drawn[159] is not None
        for width, shown in drawn.items():
            if shown is not None:
                console = Console(file=io.StringIO(), width=width)
                console.print(shown)
                text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]  # of a StringIO
                assert max(map(len, text.splitlines())) <= width
                assert words <= set(text.split())


def test_signs_that_are_others_in_latexs_text_are_set_as_mathematics() -> None:
    table = Table(name="t", caption="c", heading=("row", "p"), rows=[("a|b", "< 0.0001"), ("c > d", "0.5")])
    assert r"a$|$b & $<$ 0.0001 \\" in latex(table)
    assert r"c $>$ d & 0.5 \\" in latex(table)


def test_options_keep_their_two_hyphens_in_latex_and_a_dash_is_one() -> None:
    table = Table(
        name="t", caption="c", heading=("row", "changed"), rows=[("a", "--optim.lr 0.004"), ("b", "\N{EN DASH}")]
    )
    assert r"a & -{}-optim.lr 0.004 \\" in latex(table)
    assert r"b & -- \\" in latex(table)


@given(st.integers(1, 130))
def test_no_line_of_a_note_begins_a_list_within_it(length: int) -> None:
    lines = markdown_note(f"{'a' * length} + AutoAugment; - 3 rows; * more, at +1 {'b' * 110}").splitlines()
    assert [line for line in lines if re.match(r" *[-+*] ", line)] == lines[:1]
    assert max(map(len, lines)) <= max(119, length + 2)
    assert (
        " ".join(line.strip() for line in lines).replace("\\", "").count("+ AutoAugment; - 3 rows; * more, at +1") == 1
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *((0, "0"), (999, "999"), (1000, "1.00 k"), (999_499, "999 k"), (999_500, "1.00 M"), (2_697_610, "2.70 M")),
        *((18_000_000, "18.0 M"), (188_000_000, "188 M"), (999_600_000, "1.00 G"), (1_234_000_000, "1.23 G")),
    ],
)
def test_large_counts_have_three_digits(value: int, written: str) -> None:
    assert large(value) == written
