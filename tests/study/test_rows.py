"""The studies as data: the published table as the paper's README has it, and rows that are what their labels say."""

import math
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smallvit.cli import main
from smallvit.errors import UsageError
from smallvit.recipes import RECIPES
from smallvit.study.rows import Row, Study, changed, checked
from smallvit.study.studies import STUDIES

PAPER = Path(__file__).parents[2] / ".." / "shared" / "paper" / "README.md"
EVERY_ROW = [pytest.param(row, id=f"{name}-{row.label}") for name, make in STUDIES.items() for row in make().rows]
LINES = {
    "baseline": "baseline",
    "-aa": "without AutoAugment",
    "-mixup": "without MixUp",
    "-cutmix": "without CutMix",
    "sin": "sine-cosine positions",
    "whiten": "whitening",
    "mla qkv": "low-rank q, k, v",
    "mla kv": "low-rank k, v",
    "mla qk": "low-rank q, k",
    "mla q": "low-rank q",
    "mla k": "low-rank k",
    "ddp bs256": "distributed, batch 256",
    "ddp bs1024": "distributed, batch 1024",
    "lion bs1024": "Lion, batch 1024",
    "1 CLS, width 96": "width 96, 1 CLS token",
    "multi-CLS": "width 96, 2 CLS tokens",
}
"""Names in the table of ../shared/paper/README.md, and ours."""


@pytest.mark.skipif(not PAPER.exists(), reason="no ../shared/paper")
def test_the_published_numbers_are_those_of_the_paper() -> None:
    rows = {row.label: row for row in STUDIES["paper"]().rows}
    found = re.findall(r"^\| ([^|]+?) \| (\d\d\.\d\d) \| (\d+|-) \|", PAPER.read_text(), re.MULTILINE)
    assert {name for name, _, _ in found} == set(LINES)
    for name, accuracy, seconds in found:
        published = rows[LINES[name]].published
        assert published is not None
        assert (published.accuracy, published.seconds) == (float(accuracy), None if seconds == "-" else float(seconds))
    assert {label for label, row in rows.items() if row.published} == set(LINES.values())


@pytest.mark.parametrize("dataset", [None, "cifar10", "cifar100", "digits"])
def test_a_folder_belongs_to_one_run_and_a_run_to_one_folder(dataset: str | None) -> None:
    """Over all studies, so that they may share a folder of records, and the runs that they have in common."""
    runs: dict[str, set[str]] = defaultdict(set)
    folders: dict[str, set[str]] = defaultdict(set)
    for make in STUDIES.values():
        for row in make().on(dataset).rows:
            digest = row.config.digest()
            runs[row.folder].add(digest)
            folders[digest].add(row.folder)
            assert re.fullmatch(r"[a-z0-9.-]+", row.folder), row.folder
    assert [folder for folder, digests in runs.items() if len(digests) > 1] == []
    assert [names for names in folders.values() if len(names) > 1] == []


@pytest.mark.parametrize("row", EVERY_ROW)
def test_a_label_says_what_the_config_has(row: Row) -> None:
    model, label = row.config.model, row.label
    if found := re.search(r"width (\d+)", label):
        assert model.embed_dim == int(found[1])
    if found := re.search(r"(\d) CLS", label):
        assert model.num_cls_tokens == int(found[1])
    if found := re.search(r"depth (\d+)", label):
        assert model.depth == int(found[1])
    if found := re.search(r"patches of (\d)", label):
        assert model.patch_size == int(found[1])
    if found := re.match(r"([qkv]+) at (\d+) of (\d+)", label):
        assert model.latent_dims == tuple(int(found[2]) if part in found[1] else None for part in "qkv")
        assert model.embed_dim == int(found[3])
        assert model.init == ("spectral" if label.endswith(", spectral") else "normal")
    elif found := re.match(r"low-rank ([qkv, ]+)", label):
        assert model.latent_dims == tuple(48 if part in found[1] else None for part in "qkv")
    else:
        assert model.latent_dims == (None, None, None)
    if found := re.search(r"batch ([\d,]+)$", label):
        assert row.config.train.batch_size == int(found[1])
    if found := re.match(r"alpha ([\d.]+), probability ([\d.]+), (with|without) CutMix", label):
        augment = row.config.augment
        assert (augment.mixup_alpha, augment.mix_probability) == (float(found[1]), float(found[2]))
        assert augment.cutmix_alpha == (1.0 if found[3] == "with" else 0.0)
    optim = row.config.optim
    if found := re.search(r"(AdamW|Adam|LAMB|Lion|Muon)(?: at (\S+e-\d))?", label):
        assert optim.optimizer == found[1].lower()
        assert found[2] is None or optim.lr == float(found[2])
    if found := re.match(r"([\d,]+), ", label):
        scaling = {"rate by square root": "sqrt", "rate in proportion": "linear"}
        assert row.config.train.batch_size == int(found[1].replace(",", ""))
        assert optim.lr_scaling == next((name for words, name in scaling.items() if words in label), "none")
        assert optim.warmup_epochs == (20 if label.endswith("warm-up of 20 epochs") else 10)


def test_every_row_of_the_paper_sees_as_many_images_as_the_paper() -> None:
    for row in STUDIES["paper"]().rows:
        config = row.config
        assert config.train.epochs * config.train.passes_per_epoch == 300
        assert config.data.val_fraction == 0
        assert config.evaluate.test_curve


def test_a_scaled_study_is_another_set_of_runs() -> None:
    whole = STUDIES["paper"]()
    scaled = whole.scaled(0.02)
    assert whole.scaled(1.0) == whole
    for before, after in zip(whole.rows, scaled.rows, strict=True):
        assert after.folder == f"{before.folder}-scale-0.02"
        assert after.config.digest() != before.config.digest()
        assert after.config.length.epochs * after.config.length.passes_per_epoch == 6
        assert (after.label, after.published, after.rank) == (before.label, before.published, before.rank)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1001.0, 0.001, math.nan])
def test_a_scale_that_leaves_nothing_or_never_ends_is_refused(scale: float) -> None:
    allowed = "a number up to 1000, and of 300 passes at least one must be left"
    with pytest.raises(UsageError, match=f"--scale is {scale}: {allowed}"):
        STUDIES["paper"]().scaled(scale)


def test_a_scale_above_one_makes_longer_runs() -> None:
    (config,) = {
        row.folder: row.config for row in STUDIES["changes"]().scaled(2.5).rows if row.label == "plain"
    }.values()
    length = config.length
    assert (length.epochs, length.passes_per_epoch, length.warmup_epochs, length.every_epochs) == (15, 1, 1.875, 2)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_on_another_data_set_is_another_set_of_runs(name: str) -> None:
    study = STUDIES[name]()
    own = study.rows[0].config.data.dataset
    assert study.on(own) == study
    moved = checked(study.on("folder", Path("mine")))
    title = study.title.removesuffix(" on CIFAR-100")
    assert (moved.name, moved.title) == (f"{name}-folder", f"{title}, on a folder of images")
    for before, after in zip(study.rows, moved.rows, strict=True):
        config = after.config
        assert after.folder == f"{before.folder.removesuffix(f'-{own}')}-folder"
        assert config.differences(before.config) == [f"data.dataset is folder, not {own}"]
        assert config.data.root == Path("mine")
        assert (after.label, after.published, after.parts) == (before.label, None, before.parts)
    with pytest.raises(UsageError, match=r"data\.root is None: data\.dataset 'folder' needs the folder of your images"):
        study.on("folder")
    with pytest.raises(UsageError, match=r"data\.dataset is 'cifar': did you mean"):
        study.on("cifar")


def test_the_place_of_its_own_data_set_is_that_of_every_row_and_changes_no_run() -> None:
    study = STUDIES["patches"]()
    for mine in (study, study.on("folder", Path("a"))):
        there = mine.on(None, Path("b"))
        assert {row.config.data.root for row in there.rows} == {Path("b")}
        assert [row.folder for row in there.rows] == [row.folder for row in mine.rows]
        assert [row.config.digest() for row in there.rows] == [row.config.digest() for row in mine.rows]


@pytest.mark.parametrize(
    ("name", "dataset", "budget"),
    [
        ("changes", "cifar10", "CIFAR-10, 6 passes over 45,000 images, width 64, "),
        ("paper", "cifar100", "CIFAR-100, 300 passes over 50,000 images, batch 256, "),
        ("changes", "digits", "Digits, 6 passes, width 64, "),
        ("augmentation", "folder", "A folder of images, 12 passes, depth 6, "),
    ],
)
def test_the_budget_of_a_study_is_that_of_its_runs(name: str, dataset: str, budget: str) -> None:
    assert STUDIES[name]().on(dataset, Path("mine") if dataset == "folder" else None).budget.startswith(budget)


def _example(name: str = "digits", edits: dict[str, str] | None = None) -> Study:
    """Return a study that docs/study.md has as an example, some of its words replaced."""
    page = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        for old, new in (edits or {}).items():
            code = code.replace(old, new)
        exec(code, names)
    return names[name]()


def test_the_examples_of_the_page_are_studies() -> None:
    larger = checked(_example("changes_at_64"))
    assert len(larger.rows) == len(STUDIES["changes"]().rows)
    study = checked(_example())
    assert [row.folder for row in study.rows] == ["digits-plain", "digits-8-heads", "digits-3-cls-tokens"]
    assert study.rows[1].config.differences(study.rows[0].config)[-1] == "model.num_heads is 8, not 4"
    assert study.budget == "Digits, 50 passes, the recipe quickstart"


def test_a_study_without_mirroring_is_made_as_the_page_says() -> None:
    off = {'"train.batch_size": 64}': '"train.batch_size": 64, "augment.horizontal_flip": 0.0}'}
    left_out = {"for row in study.rows\n": 'for row in study.rows if row.label != "alternating flip"\n'}
    study = checked(_example("changes_at_64", off | left_out))
    assert {row.config.augment.horizontal_flip for row in study.rows} == {0.0}
    assert len(study.rows) == len(STUDIES["changes"]().rows) - 1
    with pytest.raises(UsageError, match="horizontal_flip must be"):
        _example("changes_at_64", off)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_checked(name: str) -> None:
    study = checked(STUDIES[name]())
    assert study.name == name
    assert len(study.seeds) >= 2


def _spoilt(what: str) -> Study:
    study = _example()
    first, second, third = study.rows
    return {
        "reference": replace(study, reference="Plain"),
        "parts": replace(study, rows=(first, second, replace(third, parts=("8 head",)))),
        "against": replace(study, rows=(first, second, replace(third, against=("8 head",)))),
        "against itself": replace(study, rows=(first, second, replace(third, against=("3 CLS tokens",)))),
        "label": replace(study, rows=(first, second, replace(third, label="8 heads"))),
        "folder": replace(
            study, rows=(first, second, replace(third, config=changed(first.config, {"model.depth": 1})))
        ),
        "name": replace(study, rows=(first, second, replace(third, config=replace(third.config, recipe="../Oops")))),
        "test": replace(
            study,
            rows=(first, second, replace(third, config=changed(third.config, {"data.split_seed": 1}))),
        ),
        "scale": replace(study, rows=(first, second, replace(third, config=replace(third.config, scale=2.0)))),
        "seeds": replace(study, seeds=(0, 1, 0)),
        "no seeds": replace(study, seeds=()),
        "part of the reference": replace(study, rows=(first, second, replace(third, parts=("8 heads", "plain")))),
        "part twice": replace(study, rows=(first, second, replace(third, parts=("8 heads", "8 heads")))),
        "sum": replace(study, rows=(first, second, replace(third, parts=("8 heads",)))),
        "study name": replace(study, name="a/b"),
        "twice": replace(study, rows=(first, second, replace(third, config=replace(second.config, recipe="other")))),
    }[what]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("reference", "study digits: reference is 'Plain': did you mean plain? rows are plain, 8 heads, 3 CLS tokens"),
        ("parts", "study digits: parts of '3 CLS tokens' is '8 head': did you mean 8 heads?"),
        ("against", "study digits: against of '3 CLS tokens' is '8 head': did you mean 8 heads?"),
        ("against itself", "against of '3 CLS tokens' is ('3 CLS tokens',): they must be other rows, each once, and"),
        ("label", "study digits: two rows have the label '8 heads': each needs its own"),
        ("study name", "a study's name is 'a/b': it names files, so allowed are a-z, 0-9, . and -"),
        ("name", "study digits: recipe is '../Oops': it names files, so allowed are a-z, 0-9, . and -"),
        ("twice", "study digits: a row is '3 CLS tokens': it is the same run as '8 heads', and would be counted twice"),
        ("scale", "study digits: scale of '3 CLS tokens' is 2.0: it must be that of all rows, as --scale gives it"),
        ("seeds", "study digits: seeds is (0, 1, 0): it must be at least one, and each once"),
        ("no seeds", "study digits: seeds is (): it must be at least one, and each once"),
        (
            "part of the reference",
            "study digits: parts of '3 CLS tokens' is ('8 heads', 'plain'): they must be other rows, each once, and",
        ),
        ("part twice", "study digits: parts of '3 CLS tokens' is ('8 heads', '8 heads'): they must be other rows"),
        ("test", "a row is '3 CLS tokens': its test images must be those of 'plain', but data.split_seed is 1 and 0"),
        (
            "sum",
            "study digits: '3 CLS tokens' against its parts is 'model.num_cls_tokens, model.num_heads': "
            "a row with parts must have all of their changes and no other",
        ),
        ("folder", "two rows have the folder, which is its config's recipe, 'digits-plain': each needs its own"),
    ],
)
def test_a_study_that_would_lose_a_row_or_a_table_is_refused(
    what: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STUDIES, "paper", lambda: _spoilt(what))
    assert main(["study", "paper", "--table-only"]) == 2
    assert words in capsys.readouterr().err


def test_a_study_is_checked_on_the_data_set_that_it_is_moved_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CIFAR-10 has a test of its own; of digits it is drawn."""
    study = STUDIES["patches"]()
    rows = [replace(row, config=changed(row.config, {"data.test_fraction": 0.3})) for row in study.rows[1:]]
    monkeypatch.setitem(STUDIES, "patches", lambda: replace(study, rows=(study.rows[0], *rows)))
    words = ["study", "patches", "--table-only", "--out", "nowhere"]
    assert main(words) == 0
    assert main([*words, "--data.dataset", "digits"]) == 2
    assert "its test images must be those of 'width 192, patches of 4'" in capsys.readouterr().err


def test_a_misspelt_field_is_named() -> None:
    for name in ("model.dept", "modle.depth", "depth"):
        with pytest.raises(UsageError, match=rf"unknown field '{name}'; did you mean model.depth\?"):
            changed(RECIPES["small"](), {name: 3})
