"""`smallvit compare` as a user meets it: its page and table, and one line for what cannot be compared."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy.stats import ttest_rel

from page_reader import Page, assert_stands_alone
from smallvit.cli import main
from smallvit.data.config import DataConfig
from smallvit.record import SOURCE, RunRecord
from smallvit.report.cells import signed
from smallvit.report.compare_figures import learning_curves
from smallvit.report.compare_pairs import mcnemar
from smallvit.report.compare_sides import read_sides
from smallvit.report.svg import TEST, VAL

MakeRun = Callable[..., RunRecord]
HOSTILE = ["<script>alert(1)</script>", "{{ config }} & $x$", "\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}", "[bold]x[/y]"]


def _two(run_folder: MakeRun, folder: Path, **make: object) -> None:
    run_folder(folder / "a", wrong=0.2, **make)
    config = run_folder(folder / "b", **make).run_config()
    config = dataclasses.replace(config, recipe="other", model=dataclasses.replace(config.model, num_cls_tokens=1))
    run_folder(folder / "b", config=config.to_json(), config_digest=config.digest(), wrong=0.1, draw=1, **make)


def _compare(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["compare", str(folder / "a"), str(folder / "b"), "--out", str(folder / "out")]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_page_stands_alone_and_the_table_says_the_same(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str], classes: int
) -> None:
    _two(run_folder, tmp_path, classes=classes, count=1000)
    printed = _compare(tmp_path, capsys)
    page = Page(tmp_path / "out" / "compare.html")
    assert_stands_alone(page)
    records = [RunRecord.load(tmp_path / name / "record.json") for name in "ab"]
    change = f"{100 * (records[1].test.accuracy - records[0].test.accuracy):+.2f}"
    for text in (printed, page.text):
        assert change in text
        assert "model.num_cls_tokens" in text
        assert all(f"{100 * record.test.accuracy:.2f}" in text for record in records)
        assert "McNemar" in text
    assert "It does not cover the seed." in page.text
    assert "covers the test images, not the seed" in printed
    assert "points of test accuracy, B against A" in page.text
    assert all(record.config_digest[:16] in page.text for record in records)
    assert page.attributes("img")


@pytest.mark.usefixtures("no_figures")
def test_cells_of_two_runs_are_counts_of_their_answers(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    _two(run_folder, tmp_path, count=3000)
    printed = _compare(tmp_path, capsys)
    text = Page(tmp_path / "out" / "compare.html").text
    kept = [load_file(tmp_path / name / "test.safetensors") for name in "ab"]
    a, b = (each["logits"].argmax(-1) == each["labels"] for each in kept)
    both, only_a, only_b, neither = (int(each.sum()) for each in (a & b, a & ~b, ~a & b, ~a & ~b))
    assert f"B right B wrong A right {both:,} {only_a:,} A wrong {only_b:,} {neither:,} " in text
    either, whose = f"{only_a + only_b:,} images that one", f"{only_a:,} are A's and {only_b:,} B's"
    assert f"of the {either} of the two has right, {whose};" in text
    assert f"of {either} has right {whose}, p" in printed
    found = mcnemar(a, b)
    interval = f"{signed(100 * found.low, '.2f')} to {signed(100 * found.high, '.2f')} points"
    assert f"95 % interval: {interval};" in text
    assert f"95 % interval {interval} (McNemar" in printed
    one, other = (np.array(RunRecord.load(tmp_path / name / "record.json").test_confusion) for name in "ab")
    for i, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        shares = [100 * mine[i] / mine.sum(), 100 * theirs[i] / theirs.sum()]
        assert f" class {i} {shares[0]:.2f} {shares[1]:.2f} {signed(shares[1] - shares[0], '.2f')} " in text
    change = (other - one) * (1 - np.eye(10, dtype=int))
    for title, cell in (("Grew most", change.argmax()), ("Shrank most", change.argmin())):
        i, j = divmod(int(cell), 10)
        row = f"class {i} class {j} {one[i, j]} {other[i, j]} {signed(float(change[i, j]), '.0f')} "
        assert row in text.partition(title)[2]


def test_lines_of_the_two_sides_differ_without_colour(tmp_path: Path, run_folder: MakeRun) -> None:
    _two(run_folder, tmp_path)
    svg = ElementTree.fromstring(learning_curves(*read_sides(tmp_path / "a", tmp_path / "b")))
    styles = [style for element in svg.iter() if "fill: none" in (style := element.get("style", ""))]
    solid = {colour: [style for style in styles if colour in style and "dash" not in style] for colour in (VAL, TEST)}
    dashed = {colour: [style for style in styles if colour in style and "dash" in style] for colour in (VAL, TEST)}
    # Val in the figure and in the legend, and the loss; test has dots there on both sides.
    assert [len(solid[VAL]), len(dashed[VAL])] == [3, 2]
    assert [len(solid[TEST]), len(dashed[TEST])] == [0, 5]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("wrong", "verdict", "on_page"),
    [
        ((0.2, 0.1), "run B is better, which says little of other seeds", "resolved for these two runs"),
        ((0.1, 0.2), "run A is better, which says little of other seeds", "resolved for these two runs"),
        ((0.1, 0.1), "neither run is shown to be better", "not resolved for these two runs"),
    ],
)
def test_the_verdict_on_two_runs(
    tmp_path: Path,
    run_folder: MakeRun,
    capsys: pytest.CaptureFixture[str],
    wrong: tuple[float, float],
    verdict: str,
    on_page: str,
) -> None:
    run_folder(tmp_path / "a", count=1000, wrong=wrong[0])
    run_folder(tmp_path / "b", count=1000, wrong=wrong[1], draw=1)
    assert f"test accuracy: {verdict}, 95 % interval" in _compare(tmp_path, capsys)
    text = Page(tmp_path / "out" / "compare.html").text
    assert on_page in text
    assert ("not resolved" in text) == ("not resolved" in on_page)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("wrong", "verdict", "on_page"),
    [
        ((0.2, 0.1), "resolved, B is better", "resolved"),
        ((0.1, 0.2), "resolved, A is better", "resolved"),
        ((0.1, 0.1), "not resolved, neither is shown to be better", "not resolved"),
    ],
)
def test_the_verdict_on_several_seeds(
    tmp_path: Path,
    run_folder: MakeRun,
    capsys: pytest.CaptureFixture[str],
    wrong: tuple[float, float],
    verdict: str,
    on_page: str,
) -> None:
    for name, share in zip("ab", wrong, strict=True):
        for seed in range(4):
            folder = tmp_path / name / f"seed{seed}"
            config = dataclasses.replace(run_folder(folder).run_config(), seed=seed)
            make = {"config": config.to_json(), "config_digest": config.digest()}
            run_folder(folder, count=1000, wrong=share, draw=2 * seed + (name == "b"), **make)
    assert f"test accuracy: {verdict}, 95 % interval" in _compare(tmp_path, capsys)
    text = Page(tmp_path / "out" / "compare.html").text
    assert f": {on_page}." in text


@pytest.mark.usefixtures("no_figures")
def test_of_many_fields_the_first_are_printed(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_folder(tmp_path / "a").run_config()
    model = dataclasses.replace(config.model, embed_dim=48, depth=2, num_heads=2, num_cls_tokens=1, mlp_ratio=1.0)
    optim = dataclasses.replace(config.optim, lr=1e-4, weight_decay=0.2, warmup_epochs=1.0)
    train = dataclasses.replace(config.train, batch_size=32, epochs=3, label_smoothing=0.2, ema_decay=0.5)
    config = dataclasses.replace(config, model=model, optim=optim, train=train)
    run_folder(tmp_path / "b", config=config.to_json(), config_digest=config.digest(), draw=1)
    said = _compare(tmp_path, capsys)
    assert "model.embed_dim: " in said
    named = [line for line in said.splitlines() if " -> " in line]
    assert (len(named), "and 2 fields more\n" in said) == (10, True)


@pytest.mark.usefixtures("no_figures")
def test_what_right_answers_may_come_of_beside_the_config_is_printed(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", draw=1)
    assert "beside the config" not in _compare(tmp_path, capsys)
    choices = dataclasses.replace(record.choices, precision="bfloat16", num_threads=1)
    hardware, versions = record.hardware | {"cores": 1, "gpu": "One"}, record.versions | {"torch": "9", SOURCE: "0b"}
    run_folder(tmp_path / "b", draw=1, choices=choices, hardware=hardware, versions=versions, num_train=7)
    assert (
        "\nnote: beside the config A and B differ in precision (float32 -> bfloat16), torch's version (2.13.0 -> 9), "
        "training images (1295 -> 7), gpu (none -> One), smallvit's source (none -> 0b)\n"
    ) in _compare(tmp_path, capsys)


def test_scaled_runs_are_labelled_everywhere(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    _two(run_folder, tmp_path)
    config = dataclasses.replace(RunRecord.load(tmp_path / "b" / "record.json").run_config(), scale=0.02)
    run_folder(tmp_path / "b", config=config.to_json(), config_digest=config.digest(), draw=1)
    words = "scaled: B 2 % of the full length"
    assert words in _compare(tmp_path, capsys)
    text = Page(tmp_path / "out" / "compare.html").text
    assert text.count(words) == 8  # the warning, the figure, and every heading over numbers


def test_hostile_class_names_are_text(tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    _two(run_folder, tmp_path, classes=4, names=HOSTILE)
    _compare(tmp_path, capsys)
    page = Page(tmp_path / "out" / "compare.html")
    assert_stands_alone(page)
    assert not {"\x1b", "\N{RIGHT-TO-LEFT OVERRIDE}"} & set(page.text)
    assert HOSTILE[0] in page.text
    assert HOSTILE[1] in page.text


def test_several_seeds_have_no_mcnemar_and_a_table_by_seed(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        for name, draw in (("a", seed), ("b", 5 + seed)):
            folder = tmp_path / name / f"seed{seed}"
            config = dataclasses.replace(run_folder(folder).run_config(), seed=seed)
            epochs = dataclasses.replace(config.train, epochs=20 if name == "a" else 30)
            config = dataclasses.replace(config, train=epochs)
            run_folder(folder, config=config.to_json(), config_digest=config.digest(), draw=draw)
    said = _compare(tmp_path, capsys)
    assert "paired by seed, n = 2" in said
    assert "note: 2 seeds hardly show how far seeds scatter" in said
    page = Page(tmp_path / "out" / "compare.html")
    assert_stands_alone(page)
    a, b = (
        [100 * RunRecord.load(tmp_path / name / f"seed{seed}" / "record.json").test.accuracy for seed in (0, 1)]
        for name in "ab"
    )
    cells = [f"{fmean(each):.2f} \N{PLUS-MINUS SIGN} {stdev(each):.2f}" for each in (a, b)]
    row = f"test accuracy, % {' '.join(cells)} {signed(fmean(b) - fmean(a), '.2f')} "
    interval = ttest_rel(b, a).confidence_interval()
    words = f"{signed(interval.low, '.2f')} to {signed(interval.high, '.2f')} points"
    for text in (page.text, " ".join(said.split())):
        assert row in text
        assert words in text
    by_seed = [f"{i} {a[i]:.2f} % {b[i]:.2f} % {signed(b[i] - a[i], '.2f')}" for i in (0, 1)]
    assert f"Test accuracy by seed seed A B B \N{MINUS SIGN} A {' '.join(by_seed)} " in page.text
    assert "McNemar's test is left out: with several seeds" in page.text


@pytest.mark.usefixtures("no_figures")
def test_seeds_that_all_differ_by_the_same_are_not_tested(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, draw in (("a", 0), ("b", 5)):
        for seed in (0, 1):
            folder = tmp_path / name / f"seed{seed}"
            config = dataclasses.replace(run_folder(folder).run_config(), seed=seed)
            train = dataclasses.replace(config.train, epochs=20 + draw)
            config = dataclasses.replace(config, train=train)
            run_folder(folder, config=config.to_json(), config_digest=config.digest(), draw=draw)
    said = _compare(tmp_path, capsys)
    reason = "all seeds differ by the same, which tells no scatter"
    assert f"test accuracy: the difference is not tested: {reason}" in said
    page = Page(tmp_path / "out" / "compare.html")
    assert f"Not tested: {reason}." in page.text
    assert "nan" not in page.text
    assert "hardly show" not in page.text, "of what is not tested"


@pytest.mark.usefixtures("no_figures")
def test_what_makes_a_side_too_good_stands_before_the_numbers(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "test: 2 of 300 pictures are in train, too: test/a/0.png"
    for name, notes in (("a", []), ("b", ["7 were grey", note])):
        run_folder(tmp_path / name, dataset_notes=notes, draw=len(notes))
    assert f"note: B: {note}" in _compare(tmp_path, capsys)
    header = (tmp_path / "out" / "compare.html").read_text(encoding="ascii").partition("</header>")[0]
    assert f"B: {note}" in header
    assert f"A: {note}" not in header


def _copy(folder: Path) -> None:
    (folder / "record.json").write_bytes((folder.parent / "a" / "record.json").read_bytes())


def _cut_predictions(folder: Path) -> None:
    path = folder / "test.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _unfinished(folder: Path) -> None:
    (folder / "record.json").unlink()


def _as_seeds(*seeds: int) -> Callable[[Path], None]:
    def move(folder: Path) -> None:
        text = (folder / "record.json").read_text()
        _unfinished(folder)
        for seed in seeds:
            (folder / f"seed{seed}.json").write_text(text)

    return move


@pytest.mark.parametrize(
    ("damage", "words", "status"),
    [
        (_copy, "A and B hold the same record", 2),
        (_cut_predictions, "does not hold predictions", 1),
        (_unfinished, "holds no finished run: expected record.json, or runs of several seeds", 1),
        (_as_seeds(3), "is a run of seed 0, not of the seed that it is named after", 1),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    run_folder: MakeRun,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    words: str,
    status: int,
) -> None:
    _two(run_folder, tmp_path)
    damage(tmp_path / "b")
    assert_refused(tmp_path, capsys, words, status)


OTHER: dict[str, object] = {"test_sha256": 64 * "b"}


@pytest.mark.parametrize(
    ("data", "make", "words"),
    [
        (DataConfig(dataset="cifar10"), {}, "data.dataset is folder and cifar10"),
        (DataConfig(dataset="folder", root=Path("x"), test_fraction=0.3), OTHER, "data.test_fraction is 0.2 and 0.3"),
        (DataConfig(dataset="folder", root=Path("x"), split_seed=1), OTHER, "data.split_seed is 0 and 1"),
        (None, {"count": 310}, "they have 300 and 310 images"),
        (None, {"names": list("abcdefghij")}, "their classes differ"),
        (None, OTHER, "the digests of their images and labels differ"),
    ],
)
def test_other_test_sets_cannot_be_compared(
    tmp_path: Path,
    run_folder: MakeRun,
    capsys: pytest.CaptureFixture[str],
    data: DataConfig | None,
    make: dict[str, object],
    words: str,
) -> None:
    run_folder(tmp_path / "a")
    config = run_folder(tmp_path / "b").run_config()
    config = dataclasses.replace(config, data=data or config.data)
    run_folder(tmp_path / "b", config=config.to_json(), config_digest=config.digest(), draw=1, **make)
    assert_refused(tmp_path, capsys, f"have different test sets: {words}", 1)


@pytest.mark.usefixtures("no_figures")
def test_a_test_of_ones_own_is_the_same_whatever_else_is_drawn_otherwise(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_folder(tmp_path / "a").run_config()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, split_seed=1, test_fraction=0.3))
    run_folder(tmp_path / "b", config=config.to_json(), config_digest=config.digest(), draw=1)
    assert "data.split_seed: 0 -> 1" in _compare(tmp_path, capsys)


def test_a_page_that_is_not_ours_is_not_replaced(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    _two(run_folder, tmp_path)
    (tmp_path / "out").mkdir()
    page = tmp_path / "out" / "compare.html"
    page.write_text("by hand")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 1
    assert f"{page} is not smallvit's, so it is not replaced" in capsys.readouterr().err
    assert page.read_text() == "by hand"


def test_no_two_runs_are_a_mistake_of_usage(
    tmp_path: Path, run_folder: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(tmp_path / "a")
    assert_refused(tmp_path, capsys, "there is no such folder or file", 2)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert_refused(tmp_path, capsys, "A and B are both", 2)


def assert_refused(folder: Path, capsys: pytest.CaptureFixture[str], words: str, status: int) -> None:
    assert main(["compare", str(folder / "a"), str(folder / "b"), "--out", str(folder / "out")]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("smallvit: ")
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (folder / "out").exists()
