"""Records found and sorted into studies; and what is refused, in a line that names the file."""

import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from smallvit.errors import SmallvitError, UsageError
from smallvit.record import RunRecord
from smallvit.report import records
from smallvit.report.collect import Section, collect, section_in
from smallvit.report.records import Run
from smallvit.report.study_page import write_report
from smallvit.study.rows import Study
from smallvit.study.studies import STUDIES
from study_records import fake_record, noisy, write_study


def _rows(name: str, *labels: str, scale: float = 1.0) -> Study:
    """Return a study of a few of its rows."""
    study = STUDIES[name]().scaled(scale)
    return replace(study, rows=tuple(row for row in study.rows if row.label in labels))


def _runs(section: Section) -> dict[str, list[int]]:
    return {label: [run.config.seed for run in runs] for label, runs in section.done.items()}


def test_both_forms_are_found_any_seed_counts_and_a_copy_counts_once(tmp_path: Path) -> None:
    study = _rows("paper", "baseline", "low-rank q")
    write_study(study, tmp_path / "a", noisy())
    late = fake_record(study.rows[1].at(17), 60.0)
    late.save(tmp_path / "a" / "seed17.json")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (section,) = (each for each in collect([tmp_path / "a", tmp_path]).sections if each.study.name == "paper")
    assert _runs(section) == {"baseline": [0, 1, 2], "low-rank q": [0, 1, 2, 17]}
    assert section.runs["low-rank q"][-1].path == tmp_path / "a" / "seed17.json"
    assert section.runs["baseline"][0].path == tmp_path / "a" / "paper-baseline" / "seed0"


def test_runs_of_other_pictures_are_no_seeds_of_each_other(tmp_path: Path) -> None:
    """The digest of a config does not tell one folder of images from another."""
    base = STUDIES["augmentation"]().rows[0].config
    mine = replace(base, data=replace(base.data, dataset="folder", root=Path("a")))
    pictures = {"a": ("0" * 64, 0), "b": ("1" * 64, 1), "c": ("1" * 64, 0)}
    for name, (test_sha256, seed) in pictures.items():
        config = replace(mine, seed=seed)
        (tmp_path / name).mkdir()
        fake_record(config, 60.0, test_sha256=test_sha256).save(tmp_path / name / "record.json")
    grown = replace(mine, seed=2)
    for name, num_train in (("d", 900), ("e", 901)):
        (tmp_path / name).mkdir()
        fake_record(grown, 60.0, test_sha256="2" * 64, num_train=num_train).save(tmp_path / name / "record.json")
    groups = [sorted(run.path.name for run in group) for group in collect([tmp_path]).others]
    assert sorted(groups) == [["a"], ["b", "c"], ["d"], ["e"]]
    assert "<title>Report of 5 runs" in write_report([tmp_path], tmp_path / "out").page.read_text()


def test_a_row_of_other_pictures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of train alone: test is the same."""
    study = STUDIES["augmentation"]()
    rows = [
        replace(row, config=replace(row.config, data=replace(row.config.data, dataset="folder", root=Path("a"))))
        for row in study.rows[:2]
    ]
    mine = replace(study, name="mine", rows=tuple(rows), reference=rows[0].label)
    monkeypatch.setitem(STUDIES, "mine", lambda: mine)
    for name, row, num_train in (("a", rows[0], 900), ("b", rows[1], 900), ("c", rows[0], 901)):
        (tmp_path / name).mkdir()
        fake_record(row.config, 60.0, num_train=num_train).save(tmp_path / name / "record.json")
    with pytest.raises(SmallvitError, match=r"[ac] and .*[ac] are runs of one row on other pictures"):
        collect([tmp_path])
    for name, label, seed in (("a", rows[0].label, 0), ("c", rows[0].label, 1), ("b", rows[1].label, 0)):
        row = next(row for row in rows if row.label == label)
        place = tmp_path / "own" / row.folder / f"seed{seed}"
        place.mkdir(parents=True)
        fake_record(row.at(seed), 60.0, num_train=901 if name == "c" else 900).save(place / "record.json")
    with pytest.raises(SmallvitError, match=r"seed[01]/record.json and .* are runs of one row on other pictures"):
        section_in(mine, tmp_path / "own")


def test_checkpoints_that_come_and_go_are_not_looked_into(tmp_path: Path) -> None:
    """Of a run that goes on; a folder of runs may have that name, too."""
    config = STUDIES["augmentation"]().rows[0].config
    run, checkpoint = tmp_path / "checkpoints" / "a", tmp_path / "checkpoints" / "b" / "checkpoints" / "step-00000001"
    for seed, folder in enumerate((run, checkpoint)):
        folder.mkdir(parents=True)
        fake_record(replace(config, seed=seed), 60.0).save(folder / "record.json")
    (tmp_path / "checkpoints" / "b" / "config.json").touch()
    assert [[each.path for each in group] for group in collect([tmp_path]).others] == [[run]]


def test_a_run_stands_in_every_study_that_has_it(tmp_path: Path) -> None:
    write_study(_rows("paper", "baseline", "low-rank q", "2 CLS tokens"), tmp_path, noisy(), {"baseline": 1})
    write_study(_rows("latents", "q at 72 of 192"), tmp_path, noisy())
    names = {section.name: list(section.done) for section in collect([tmp_path]).sections}
    assert names == {
        "paper": ["baseline", "low-rank q", "2 CLS tokens"],
        "latents": ["full q, k and v", "q at 48 of 192", "q at 72 of 192"],
    }


def test_a_part_of_another_study_is_a_section_only_if_it_compares_with_another_row(tmp_path: Path) -> None:
    write_study(_rows("paper", "baseline", "low-rank q", "2 CLS tokens"), tmp_path, noisy(), {"baseline": 1})
    assert [section.name for section in collect([tmp_path]).sections] == ["paper"]  # not latents as well
    write_study(_rows("paper", "width 96, 1 CLS token"), tmp_path, noisy())
    names = {section.name: list(section.done) for section in collect([tmp_path]).sections}
    assert names == {
        "paper": ["baseline", "low-rank q", "width 96, 1 CLS token", "2 CLS tokens"],
        "cls-tokens": ["width 96, 1 CLS token", "width 192, 1 CLS token", "width 192, 2 CLS tokens"],
    }


def test_a_part_of_another_study_that_has_changes_together_is_a_section(tmp_path: Path) -> None:
    """The paper's table has no parts."""
    write_study(
        _rows("paper", *("baseline", "low-rank k", "low-rank v", "low-rank k, v", "2 CLS tokens")), tmp_path, noisy()
    )
    sections = collect([tmp_path]).sections
    assert [section.name for section in sections] == ["paper", "latents"]
    assert [row.label for row in sections[1].together] == ["kv at 48 of 192"]


def test_a_part_of_another_study_that_is_held_against_another_row_is_a_section(tmp_path: Path) -> None:
    """The paper's table holds all against its baseline."""
    write_study(_rows("paper", *("baseline", "low-rank q", "low-rank k", "2 CLS tokens")), tmp_path, noisy())
    sections = collect([tmp_path]).sections
    assert [section.name for section in sections] == ["paper", "latents"]
    assert sections[1].pairs == [("k at 48 of 192", "q at 48 of 192")]


def test_two_studies_that_have_the_same_runs_are_two_sections(tmp_path: Path) -> None:
    write_study(_rows("paper", "baseline", "low-rank q"), tmp_path, noisy())
    assert [section.name for section in collect([tmp_path]).sections] == ["paper", "latents"]


def test_scales_are_kept_apart(tmp_path: Path) -> None:
    for scale in (1.0, 0.02):
        write_study(_rows("paper", "baseline", "whitening", scale=scale), tmp_path, noisy())
    found = collect([tmp_path])
    assert [(section.name, section.scale) for section in found.sections] == [("paper", 1.0), ("paper-scale-0.02", 0.02)]
    for section in found.sections:
        assert {run.config.scale for runs in section.runs.values() for run in runs} == {section.scale}


def test_a_study_on_another_data_set_is_a_section_beside_its_own(tmp_path: Path) -> None:
    rows = _rows("paper", "baseline", "low-rank q")
    write_study(rows, tmp_path, noisy())
    write_study(rows.on("digits"), tmp_path, noisy())
    sections = collect([tmp_path]).sections
    names = ["paper", "latents", "paper-digits"]  # latents has these rows as well; on digits that is no more to say
    assert [(section.name, len(section.paths)) for section in sections] == [(name, 6) for name in names]
    assert [section.published() != {} for section in sections] == [True, True, False]


def test_a_study_without_its_reference_or_with_nothing_else_is_no_section(tmp_path: Path) -> None:
    write_study(_rows("paper", "whitening", "low-rank q"), tmp_path / "a", noisy())
    write_study(_rows("augmentation", "crop and flip"), tmp_path / "b", noisy())
    found = collect([tmp_path / "a", tmp_path / "b"])
    assert found.sections == []
    assert [[run.config.recipe for run in group] for group in found.others] == [
        ["augment-crop-flip"] * 2,
        ["paper-mla-q"] * 3,
        ["paper-whiten"] * 3,
    ]


def test_what_the_paper_reports_is_known_in_other_tables_and_at_other_lengths(tmp_path: Path) -> None:
    study = STUDIES["cls-tokens"]().scaled(0.1)
    section = Section(study=study, runs={row.label: [] for row in study.rows})
    published = {label: said.accuracy for label, said in section.published().items()}
    assert published == {
        "width 96, 1 CLS token": 90.41,
        "width 96, 2 CLS tokens": 93.95,
        "width 192, 1 CLS token": 93.65,
    }


def test_runs_behind_links_to_folders_are_found_once(tmp_path: Path) -> None:
    """As they lie where a cluster has its room elsewhere; a link to what is above leads nowhere new."""
    write_study(_rows("paper", "baseline", "whitening"), tmp_path / "runs", noisy(), {"whitening": 1})
    (tmp_path / "runs" / "paper-whiten").rename(tmp_path / "elsewhere")
    (tmp_path / "runs" / "paper-whiten").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "above").symlink_to(tmp_path)
    (section,) = collect([tmp_path / "runs"]).sections
    assert {label: len(runs) for label, runs in section.done.items()} == {"baseline": 3, "whitening": 1}


def test_a_record_that_cannot_be_read_is_refused_with_its_path(tmp_path: Path) -> None:
    write_study(_rows("paper", "baseline", "whitening"), tmp_path, noisy(), {"whitening": 1})
    path = tmp_path / "paper-whiten" / "seed0" / "record.json"
    record = RunRecord.load(path)
    config = {**record.config, "model": {**record.config["model"], "depht": 3}}
    replace(record, config=config).save(path)
    with pytest.raises(SmallvitError, match=r"config\.model\.depht is not known") as error:
        collect([tmp_path])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_or_absent_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SmallvitError, match=r"no finished run there; expected record\.json or seed<k>\.json"):
        collect([tmp_path])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "seed.json").write_text("not a record's name")
    with pytest.raises(SmallvitError, match="no finished run there"):
        collect([tmp_path])
    with pytest.raises(UsageError, match="it must be a folder that holds runs"):
        collect([tmp_path / "absent"])


def test_of_two_runs_of_one_config_and_seed_the_first_counts_and_the_other_is_named(tmp_path: Path) -> None:
    config = STUDIES["paper"]().rows[0].at(0)
    for name, accuracy, hour in (("a", 62.0, 3), ("b", 60.0, 1), ("c", 61.0, 2), ("copy", 60.0, 1)):
        (tmp_path / name).mkdir()
        record = replace(fake_record(config, accuracy), started=f"2026-11-29T0{hour}:00:00+00:00")
        record.save(tmp_path / name / "record.json")
    found = collect([tmp_path])
    assert [[run.path.name for run in runs] for runs in found.others] == [["b"]]
    assert [(left.name, counted.name) for left, counted in found.again] == [("a", "b"), ("c", "b")]
    report = write_report([tmp_path], tmp_path / "report")
    said = f"{tmp_path / 'a'} is left out: {tmp_path / 'b'}, of the same config and seed, started before it"
    assert report.notes[0] == said
    assert said in unescape(report.page.read_text().replace("<wbr>", ""))


def test_other_test_images_within_a_study_are_refused(tmp_path: Path) -> None:
    study = _rows("paper", "baseline", "whitening")
    write_study(study, tmp_path, noisy(), {"whitening": 0})
    record = fake_record(study.rows[1].at(0), 60.0)
    names = [*record.class_names[:-1], "lorry"]
    replace(record, class_names=names).save(tmp_path / "seed0.json")
    with pytest.raises(SmallvitError, match="have different test sets"):
        collect([tmp_path])


def test_runs_that_tell_the_same_of_their_test_images_are_held_against_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand runs there are half a million pairs."""
    study = replace(_rows("paper", "baseline", "whitening"), seeds=tuple(range(20)))
    write_study(study, tmp_path, noisy())
    held: list[tuple[Run, Run]] = []

    def other_test_set(one: Run, other: Run) -> str:
        held.append((one, other))
        return ""

    monkeypatch.setattr(records, "_other_test_set", other_test_set)
    assert sum(map(len, section_in(study, tmp_path).runs.values())) == 40
    assert not held


def test_other_test_images_with_the_same_counts_are_refused_also_in_a_study_of_its_own(tmp_path: Path) -> None:
    """A record of before there were digests, here the reference's, tells nothing, and hides nothing of the others."""
    study = _rows("paper", "baseline", "whitening", "low-rank q")
    write_study(study, tmp_path, noisy(), dict.fromkeys((row.label for row in study.rows), 1))

    def digests(*found: str | None) -> None:
        for row, each in zip(study.rows, found, strict=True):
            path = tmp_path / row.folder / "seed0" / "record.json"
            replace(RunRecord.load(path), test_sha256=each).save(path)

    digests(None, "a" * 64, "a" * 64)
    assert "paper" in {section.name for section in collect([tmp_path]).sections}
    assert sum(map(len, section_in(study, tmp_path).runs.values())) == 3
    digests(None, "a" * 64, "b" * 64)
    one, other = (tmp_path / row.folder / "seed0" for row in study.rows[1:])
    why = "have different test sets: the digests of their images and labels differ"
    with pytest.raises(SmallvitError, match=re.escape(f"{one} and {other} {why}")):
        collect([tmp_path])
    with pytest.raises(SmallvitError, match=re.escape(why)) as error:
        section_in(study, tmp_path)
    assert str(one) in str(error.value)
    assert str(other) in str(error.value)


def test_another_data_set_is_another_study(tmp_path: Path) -> None:
    """Mixed data sets never meet in one table."""
    for name in ("paper", "cifar100"):
        write_study(_rows(name, "baseline", "low-rank q"), tmp_path, noisy())
    sections = collect([tmp_path]).sections
    assert [section.name for section in sections] == ["paper", "latents", "cifar100"]
    for section in sections:
        runs: list[Run] = [run for each in section.runs.values() for run in each]
        assert {run.config.data.dataset for run in runs} == {"cifar100" if section.name == "cifar100" else "cifar10"}
