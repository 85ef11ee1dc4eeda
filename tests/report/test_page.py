"""The page of a run: whole, self-contained, faithful to the record, safe with any class name."""

import base64
import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import balanced_accuracy_score

from page_reader import Page, assert_stands_alone
from smallvit.data.config import DataConfig
from smallvit.data.split import uneven
from smallvit.errors import SmallvitError
from smallvit.held_out import MAY_BE_SEEN
from smallvit.recipes import RECIPES
from smallvit.record import RunRecord
from smallvit.report.figures import _RIGHT_RGB, _WRONG_RGB
from smallvit.report.html import shown_name
from smallvit.report.page import write_page
from smallvit.report.predictions import mistakes_of, read_predictions
from smallvit.run import run
from smallvit.session import Session
from tiny_study import BASE

CSS = Path(__file__).parents[2] / "src/smallvit/report/templates/page.css"
MakeRun = Callable[..., RunRecord]


def test_the_mean_over_uneven_classes_is_scikit_learns(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path, classes=3)
    assert record.mean_class_accuracy() is None
    matrix = [[90, 10, 0], [5, 5, 0], [0, 0, 0]]
    cells = [(true, taken) for true in range(3) for taken in range(3) for _ in range(matrix[true][taken])]
    expected = balanced_accuracy_score(*zip(*cells, strict=True))
    assert dataclasses.replace(record, test_confusion=matrix).mean_class_accuracy() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("counts", "are"),
    [([74, 26], True), ([100] * 9 + [5], True), ([15, 10, 0], True), ([14, 10, 0], False), ([7, 0], False)],
)
def test_classes_are_uneven_where_one_has_half_as_many_again_as_another(counts: list[int], are: bool) -> None:
    assert uneven(counts) is are


@pytest.mark.parametrize(
    ("classes", "count", "val"), [(2, 40, True), (10, 300, False), (100, 1000, True), (200, 1000, False)]
)
def test_a_page_is_whole_and_refers_to_nothing_outside(
    tmp_path: Path, run_folder: MakeRun, classes: int, count: int, val: bool
) -> None:
    record = run_folder(tmp_path, classes=classes, count=count, val=val)
    path = write_page(tmp_path)
    assert path == tmp_path / "index.html"
    page = Page(path)
    assert_stands_alone(page)
    assert all(f"class {index} " in page.text for index in range(classes))
    assert ("No val split was held out." in page.text) != val
    assert ("divided by 0.500, the temperature that fits val" in page.text) == val
    assert f"{record.test.correct:,} of {count:,} test images right" in page.text


@pytest.mark.usefixtures("no_figures")
def test_of_adjusted_logits_a_page_says_whose_probabilities_it_has(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path)
    config = record.run_config()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, logit_adjustment=1.0))
    record = dataclasses.replace(record, config=config.to_json(), config_digest=config.digest())
    record.save(tmp_path / "record.json")
    assert "that fits val once the classes' shares there are put back; without them" in Page(write_page(tmp_path)).text


def test_mistakes_are_as_sure_as_the_temperature_has_them(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path, count=1000)
    kept = load_file(tmp_path / "test.safetensors")
    expected = (kept["logits"][kept["mistakes"]].double() / 0.5).softmax(-1).amax(-1)
    found = mistakes_of(read_predictions(tmp_path / "test.safetensors", record), record.class_names)
    assert [each.confidence for each in found] == pytest.approx(expected.tolist())


def test_the_numbers_are_the_records(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path, count=1000)
    page = Page(write_page(tmp_path))
    exact = {json.loads(attributes["value"] or "") for attributes in page.attributes("data")}
    assert record.val is not None
    for number in (
        *(getattr(m, f.name) for m in (record.test, record.test_calibrated, record.val) for f in dataclasses.fields(m)),
        *(getattr(point, name) for point in record.curve for name in ("images_seen", "train_loss")),
        *(record.train_seconds, record.first_step_seconds, record.evaluate_seconds, record.images_per_second),
        *(record.num_parameters, record.num_macs, record.num_train),
    ):
        assert number in exact
    for text in (
        f"{record.test.correct / 10:.2f} % test accuracy",
        "209,738",
        "16,519,424",
        "cpu with 2 threads, float32 (as asked), bmm attention, not compiled",
        "python 3.11.7, smallvit 0.1.0, torch 2.13.0, numpy 2.4.6, pillow 13.0.0",
        "A Processor",
        "24 GiB",
        "7 images were grey: made RGB",
        "smallvit train quickstart --seed 0 --data.dataset folder --data.root pictures",
        record.config_digest,
        json.loads((tmp_path / "record.json").read_text())["sha256"],
        "Test was read once, at the last epoch.",
        ": 210 k parameters, 16.5 M MACs an image, ",
    ):
        assert text in page.text
    splits = {"test": record.test, "test, calibrated": record.test_calibrated, "val": record.val}
    for split, found in splits.items():
        assert found is not None
        share, error = f"{100 * found.accuracy:.2f} %", f"{100 * found.calibration_error:.2f} %"
        nats = f"{found.negative_log_likelihood:.4f}"
        assert f" {split} {share} {found.correct:,} {found.count:,} {nats} {error} " in page.text


@pytest.mark.usefixtures("no_figures")
def test_what_a_class_is_taken_for_is_the_largest_count_beside_the_diagonal(
    tmp_path: Path, run_folder: MakeRun
) -> None:
    record = run_folder(tmp_path, classes=40, count=2000, wrong=0.5)
    text = Page(write_page(tmp_path)).text
    matrix = np.array(record.test_confusion)
    wrong = matrix * (1 - np.eye(40, dtype=int))
    rows = re.findall(r"class (\d+) ([\d.]+) % (\d+) (\d+) class (\d+) \((\d+)\)", text)
    assert [float(share) for _, share, *_ in rows] == sorted(100 * matrix.diagonal() / matrix.sum(1))
    assert {tuple(map(int, (index, *counts))) for index, _, *counts in rows} == {
        (i, matrix[i, i], matrix[i].sum(), wrong[i].argmax(), wrong[i].max()) for i in range(40)
    }
    pairs = re.findall(r"class (\d+) class (\d+) (\d+)", text.partition("Most often confused true class")[2])
    assert [int(count) for *_, count in pairs] == sorted(wrong.ravel(), reverse=True)[:10]
    assert all(wrong[int(true), int(taken)] == int(count) for true, taken, count in pairs)


@pytest.mark.usefixtures("no_figures")
def test_the_interval_is_wilsons(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path, classes=2, count=100, wrong=0.0)
    assert "96.30 % to 100.00 %" in Page(write_page(tmp_path)).text  # 1 / (1 + z^2 / 100)


@pytest.mark.usefixtures("no_figures")
def test_a_test_set_read_along_the_curve_is_said(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path, test_curve=True)
    best = max(point.test.correct for point in record.curve if point.test)
    text = Page(write_page(tmp_path)).text
    assert "Test was read along the curve, at 4 of its points" in text
    assert f"The best point on test is {100 * best / 300:.2f} %" in text


@pytest.mark.usefixtures("no_figures")
def test_what_happened_on_the_way_is_said(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path / "plain")
    plain = Page(write_page(tmp_path / "plain")).text
    run_folder(tmp_path / "rough", world_size=4, resumed_at_steps=[120, 3400], skipped_steps=[7])
    rough = Page(write_page(tmp_path / "rough")).text
    for words in ("interrupted 2 times, resumed after step 120, 3,400", "steps left out 1, for", "processes 4"):
        assert words in rough
        assert words.split()[0] + " " + words.split()[1] not in plain


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("recipe", "fields", "model", "optimiser"),
    [
        (
            "best",
            {},
            "MLP ratio 2 with depthwise convolution, patch 4, tokenizer conv-pool, mean of the patches parameters",
            "muon, highest rate 0.00125 (Muon's own 0.004), weight decay 0.05 (Muon's own 0.1), 10 epochs of warm-up",
        ),
        (
            "laptop",
            {"lr_scaling": "linear"},
            "Vision Transformer, 1 block, width 256, 8 heads, MLP ratio 2 with depthwise convolution, patch 8, "
            "tokenizer conv-pool, mean of the patches parameters",
            "muon, highest rate 0.005 (Muon's own 0.016), weight decay 0.05 (Muon's own 0.5), 1 epoch of warm-up",
        ),
        (
            "baseline",
            {"tokenizer": "conv", "tokenizer_depth": 3, "num_registers": 4, "pooling": "cls+mean"},
            "patch 4, tokenizer conv of depth 3, 1 CLS token, 4 registers, mean of the patches parameters",
            "adamw, highest rate 0.001, weight decay 0.05, 10 epochs of warm-up",
        ),
        (
            "small",
            {},
            "MLP ratio 2, patch 4, 2 CLS tokens parameters",
            "highest rate 0.002, weight decay 0.05, 2 epochs",
        ),
    ],
)
def test_what_was_trained_is_said(
    tmp_path: Path, run_folder: MakeRun, recipe: str, fields: dict[str, Any], model: str, optimiser: str
) -> None:
    config = RECIPES[recipe]()
    if "lr_scaling" in fields:
        train = dataclasses.replace(config.train, batch_size=512)
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, **fields), train=train)
    else:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))
    run_folder(tmp_path, config=config.resolve(10).to_json(), config_digest=config.digest())
    text = Page(write_page(tmp_path)).text
    assert model in text
    assert optimiser in text


@pytest.mark.usefixtures("no_figures")
def test_what_else_was_changed_is_said(tmp_path: Path, run_folder: MakeRun) -> None:
    """Whatever fields there are, and that the weights were another run's."""
    config = RECIPES["small"]()
    model = dataclasses.replace(config.model, position="rotary", drop_path_rate=0.2)
    train = dataclasses.replace(config.train, ema_decay=0.9)
    for fork, words in ((None, ""), ("ab" * 32, "the weights of another run, sha256 abababababababab")):
        config = dataclasses.replace(config, model=model, train=train, fork=fork)
        run_folder(tmp_path, config=config.resolve(10).to_json(), config_digest=config.digest())
        text = Page(write_page(tmp_path)).text
        changes = "--model.position rotary --model.drop-path-rate 0.2 --train.ema-decay 0.9"
        assert f"changed in the recipe {changes} " in text
        assert words in text
        assert bool(words) == ("started from" in text)


@pytest.mark.usefixtures("no_figures")
def test_whose_images_they_are_is_said(tmp_path: Path, run_folder: MakeRun) -> None:
    config = dataclasses.replace(run_folder(tmp_path).run_config(), data=DataConfig(dataset="cifar10"))
    run_folder(tmp_path, config=config.resolve(10).to_json(), config_digest=config.digest())
    text = Page(write_page(tmp_path)).text
    assert "The images: A. Krizhevsky, Learning Multiple Layers of Features" in text
    assert "Licence: none stated" in text


@pytest.mark.usefixtures("no_figures")
def test_pictures_are_the_runs_own(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path)
    kept = load_file(tmp_path / "test.safetensors")
    images = Page(write_page(tmp_path)).attributes("img")
    assert len(images) == len(kept["mistakes"]) > 1
    for attributes, index, pixels in zip(images, kept["mistakes"].tolist(), kept["mistake_images"], strict=True):
        png = base64.b64decode((attributes["src"] or "").removeprefix("data:image/png;base64,"))
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(png))), pixels.permute(1, 2, 0).numpy())
        true, taken = int(kept["labels"][index]), int(kept["logits"][index].argmax())
        assert attributes["alt"] == f"Test image {index}: class {true}, taken for class {taken}"


def test_no_mistakes_are_said(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path, wrong=0.0)
    page = Page(write_page(tmp_path))
    assert "There are none: all 300 test images are right." in page.text
    assert page.attributes("img") == []


def test_a_run_folder_may_have_a_name_that_is_not_utf_8(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path / "run")
    folder = (tmp_path / "run").rename(tmp_path / "caf\udce9")
    assert "of 300 test images right" in Page(write_page(folder)).text


def test_a_class_without_test_images(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path, classes=10, count=9, wrong=0.0)
    assert "class 9 \N{EN DASH} 0 0" in Page(write_page(tmp_path)).text


HOSTILE = [
    "<script>alert(1)</script>",
    "</style></svg><img src=x onerror=alert(1)>",
    "$\\frac{1}{0}$",
    '"quoted" & {{ config }} {% raw %}',
    "\N{CJK UNIFIED IDEOGRAPH-732B} \N{CAT FACE}",
    "\x1b[31m\x00\n\N{RIGHT-TO-LEFT OVERRIDE}",
    "x" * 300,
    'url(http://x.invalid/a) #1f62c8 id="figure_1"',
    "_hidden",
    "%s %d {0}",
]


@pytest.mark.parametrize("copies", [1, 3])
def test_hostile_class_names_are_text(tmp_path: Path, run_folder: MakeRun, copies: int) -> None:
    names = [name + "!" * copy for copy in range(copies) for name in HOSTILE]
    run_folder(tmp_path, classes=len(names), names=names, wrong=0.5)
    page = Page(write_page(tmp_path))
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.values("onerror") == []
    assert not {"\x1b", "\x00", "\N{RIGHT-TO-LEFT OVERRIDE}"} & set(page.text)
    assert all(" ".join(name.split()) in page.text for name in HOSTILE if name.isprintable())


def test_the_page_is_replaced_whole(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path)
    first, before = write_page(tmp_path).read_bytes(), (tmp_path / "index.html").stat()
    assert write_page(tmp_path).read_bytes() == first
    assert (tmp_path / "index.html").stat().st_ino != before.st_ino  # a new file in its place, not one rewritten
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html",
        "metrics.jsonl",
        "record.json",
        "test.safetensors",
    }


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _too_large(path: Path) -> None:
    path.write_text(f'{{"step": 1, "loss": 1{"0" * 400}}}\n')


def _too_deep(path: Path) -> None:
    path.write_text(f"{'[' * 100_000}\n")


def _third_line_without_loss(path: Path) -> None:
    lines = path.read_text().splitlines()
    lines[2] = '{"step": 59}'
    path.write_text("\n".join(lines))


def _of_another_run(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "labels": tensors["labels"].roll(1)}, path)


def _without_labels(path: Path) -> None:
    tensors = load_file(path)
    del tensors["labels"]
    save_file(tensors, path)


def _other_pictures(path: Path) -> None:
    tensors = load_file(path)
    save_file(
        {
            **tensors,
            "mistakes": (tensors["logits"].argmax(-1) == tensors["labels"]).nonzero()[:, 0][: len(tensors["mistakes"])],
        },
        path,
    )


def _mistakes_beyond_the_end(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "mistakes": tensors["mistakes"] + 10_000}, path)


def _other_types(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "mistakes": tensors["mistakes"].float()}, path)


def _other_dimensions(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "mistake_images": tensors["mistake_images"][..., 0].contiguous()}, path)


def _files_that_are_none(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "files": torch.zeros(len(tensors["labels"]))}, path)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("record.json", Path.unlink, "holds no run"),
        ("test.safetensors", Path.unlink, "does not hold predictions"),
        ("test.safetensors", _cut, "does not hold predictions"),
        ("test.safetensors", _of_another_run, "is not of the run in record.json"),
        ("test.safetensors", _without_labels, "has no labels"),
        ("test.safetensors", _other_pictures, "holds mistakes that are none"),
        ("test.safetensors", _mistakes_beyond_the_end, "holds mistakes that are none"),
        ("test.safetensors", _other_types, "its mistakes have not the type or shape that a run writes"),
        ("test.safetensors", _other_dimensions, "its mistake_images have not the type or shape that a run writes"),
        ("test.safetensors", _files_that_are_none, "its files have not the type or shape that a run writes"),
        ("metrics.jsonl", _cut, "is not a line of metrics"),
        ("metrics.jsonl", _third_line_without_loss, "line 3 is not a line of metrics: 'loss'"),
        *(("metrics.jsonl", wrong, "line 1 is not a line of metrics: ") for wrong in (_too_large, _too_deep)),
    ],
)
def test_a_damaged_folder_is_one_line(
    tmp_path: Path, run_folder: MakeRun, name: str, damage: Callable[[Path], Any], words: str
) -> None:
    run_folder(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(SmallvitError, match=words) as caught:
        write_page(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "index.html").exists()


@pytest.mark.usefixtures("no_figures")
def test_what_makes_a_number_too_good_stands_beside_it(tmp_path: Path, run_folder: MakeRun) -> None:
    told = ["test: 2 pictures are in train, too: test/a/0.png, test/a/1.png", *MAY_BE_SEEN.values()]
    run_folder(tmp_path, dataset_notes=["7 images were grey: made RGB", *told])
    header, _, rest = write_page(tmp_path).read_text(encoding="ascii").partition("</header>")
    assert [note in header for note in told] == [True, True, True]
    assert "were grey" not in header
    assert "were grey" in rest


def test_without_metrics_the_record_gives_the_curve(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path)
    with_steps = write_page(tmp_path).read_text()
    (tmp_path / "metrics.jsonl").unlink()
    without = write_page(tmp_path).read_text()
    assert "single batches" in with_steps
    assert "single batches" not in without
    assert "mean of the interval" in without


def _strokes(page: str) -> int:
    """Return in how many parts the line of single batches is drawn."""
    line = re.search(r'<path d="([^"]*)"[^>]*stroke: var\(--muted[^;]*; stroke-width: 0\.6', page)
    assert line is not None
    return line[1].count("M")


def test_a_step_without_a_loss_is_a_gap_in_the_curve(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert _strokes(write_page(tmp_path).read_text()) == 1
    rows[3]["loss"] = None
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_page(tmp_path)
    assert _strokes(page.read_text()) == 2
    assert_stands_alone(Page(page))
    metrics.write_text("".join(json.dumps({**row, "loss": None}) + "\n" for row in rows if "step" in row))
    assert "single batches" in write_page(tmp_path).read_text()


def test_a_run_that_left_out_its_last_logged_step_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Session.batch

    def without_number(self: Session, step: int) -> Any:
        data = batch(self, step)
        return dataclasses.replace(data, images=data.images * (float("nan") if step == 19 else 1.0))

    monkeypatch.setattr(Session, "batch", without_number)
    train = dataclasses.replace(BASE.train, batch_size=64, on_nonfinite="skip")
    device = dataclasses.replace(BASE.device, attention="bmm", num_threads=1)
    record = run(dataclasses.replace(BASE, train=train, device=device), tmp_path)
    assert record.skipped_steps == [19]
    assert '"step": 19, "loss": null' in (tmp_path / "metrics.jsonl").read_text()
    assert "steps left out 1, for" in Page(write_page(tmp_path)).text


def test_colours_have_the_contrast_of_wcag_aa() -> None:
    css = CSS.read_text()
    modes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)]
    assert len(modes) == 2
    for colours in modes:
        for ink in ("ink", "muted", "val", "test"):
            assert _contrast(colours[ink], colours["page"]) >= 4.5
        assert _contrast(colours["ink"], colours["warn"]) >= 4.5
        for colour in (_RIGHT_RGB, _WRONG_RGB):  # the darkest numbered cell
            cell = 0.6 * np.array(colour) + 0.4 * _rgb(colours["page"])
            assert _ratio(_rgb(colours["ink"]), cell) >= 4.5


def test_in_print_no_heading_stands_at_the_end_of_a_page() -> None:
    assert "h2, h3 { break-after: avoid; }" in CSS.read_text().partition("@media print {")[2]


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])


def _contrast(one: str, other: str) -> float:
    return _ratio(_rgb(one), _rgb(other))


def _ratio(one: np.ndarray, other: np.ndarray) -> float:
    """WCAG 2.1's contrast ratio."""
    light = [
        np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722) for c in (one, other)
    ]
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ke\N{ZERO WIDTH NON-JOINER}ha", "ke\N{ZERO WIDTH NON-JOINER}ha"),
        ("\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}", "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}"),
        ("a\N{NO-BREAK SPACE}b\N{IDEOGRAPHIC SPACE}c\n", "a b c "),
        ("\N{RIGHT-TO-LEFT OVERRIDE}\x1b", 2 * "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_names_keep_their_letters_and_lose_what_moves_others(name: str, shown: str) -> None:
    assert shown_name(name) == shown
