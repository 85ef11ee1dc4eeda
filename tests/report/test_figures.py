"""Figures: well-formed SVG, equal bytes for equal records, themed by variables, right marks in the right places."""

import base64
import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from smallvit.evaluate import Metrics
from smallvit.record import RunRecord
from smallvit.report.compare_figures import learning_curves
from smallvit.report.compare_sides import read_sides
from smallvit.report.figures import bound_accuracies, confusion_matrix, draw_confusion, learning_curve

MakeRun = Callable[..., RunRecord]
SVG = "{http://www.w3.org/2000/svg}"


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def _cells(svg: str) -> np.ndarray:
    """Return the largest square picture in the SVG: RGBA, a pixel a cell."""
    images = [element.get("href", "") for element in ElementTree.fromstring(svg).iter(f"{SVG}image")]
    arrays = [np.array(Image.open(io.BytesIO(base64.b64decode(i.partition("base64,")[2])))) for i in images]
    return max((array for array in arrays if array.shape[0] == array.shape[1]), key=len)


@pytest.mark.parametrize("classes", [2, 10, 15, 16, 100, 200])
def test_cells_are_the_shares(tmp_path: Path, run_folder: MakeRun, classes: int) -> None:
    record = run_folder(tmp_path, classes=classes, count=2000, wrong=0.4)
    svg = confusion_matrix(record)
    counts = np.array(record.test_confusion)
    cells = _cells(svg)
    assert cells.shape == (classes, classes, 4)
    share = counts / counts.sum(axis=1, keepdims=True)
    strongest = 0.6 if classes <= 15 else 1.0
    np.testing.assert_allclose(cells[..., 3] / 255, strongest * np.sqrt(share), atol=1 / 255)
    blue = cells[..., 2] > cells[..., 0]
    assert (blue == np.eye(classes, dtype=bool)).all()
    numbers = sorted(int(text) for text in _texts(svg) if text.isdecimal())
    assert numbers == (sorted(counts[counts > 0].tolist()) if classes <= 15 else [])
    assert sum(text.startswith("class ") for text in _texts(svg)) <= 2 * 20


@pytest.mark.parametrize("classes", [2, 15, 16, 100, 200])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_no_word_of_a_matrix_is_cut(classes: int, scale: float) -> None:
    names = [f"a class named {number}" for number in range(classes)]
    figure = draw_confusion(np.eye(classes, dtype=int), names, scale)
    figure.draw_without_rendering()
    words = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert {"true class", "predicted class"} <= {text.get_text() for text in words}
    for text in words:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(("letters", "rotated"), [("abcde", False), ("\N{CJK UNIFIED IDEOGRAPH-4E00}" * 5, True)])
def test_names_of_wide_letters_stand_upright_sooner(letters: str, rotated: bool) -> None:
    figure = draw_confusion(np.eye(8, dtype=int), [letters] * 8, 1.0)
    assert {bool(tick.get_rotation()) for tick in figure.axes[0].get_xticklabels()} == {rotated}


def test_the_curve_has_its_points_and_units(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path)
    assert record.val is not None
    texts = _texts(learning_curve(record, []))
    assert {"accuracy, %", "train loss, nats", "epoch"} <= set(texts)
    assert f"val, {100 * record.val.accuracy:.2f} % at epoch 20" in texts
    assert f"test, {100 * record.test.accuracy:.2f} % at epoch 20" in texts


@pytest.mark.parametrize("correct", [100, 600, 900])
def test_the_legend_covers_no_last_point(tmp_path: Path, run_folder: MakeRun, correct: int) -> None:
    record = run_folder(tmp_path)
    val, test = (
        Metrics(correct=n, count=1000, negative_log_likelihood=1.0, calibration_error=0.1) for n in (900, correct)
    )
    curve = [replace(p, val=replace(val, correct=300 + 30 * p.epoch), test=None) for p in record.curve]
    curve[-1] = replace(curve[-1], test=test)
    root = ElementTree.fromstring(learning_curve(replace(record, curve=curve, val=val, test=test), []))
    groups = {group.get("id", ""): group for group in root.iter(f"{SVG}g")}

    def marks(group: str) -> set[tuple[float, float]]:
        uses = [use.attrib for use in groups[group].iter(f"{SVG}use")]
        lines = [use for use in uses if "--val" in use["style"] or "--test" in use["style"]]
        return {(float(use["x"]), float(use["y"])) for use in lines}

    legend = marks("curve-legend_1")
    ends = sorted(marks("curve-axes_1") - legend)[-2:]
    assert len(legend) == len(ends) == 2
    assert all(abs(y - row) > 10 for _, row in legend for _, y in ends)


def test_a_curve_of_nothing_right_has_no_accuracy_below_0(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path)
    none = Metrics(correct=0, count=1000, negative_log_likelihood=2.3, calibration_error=0.1)
    curve = [replace(point, val=none, test=point.test and none) for point in record.curve]
    record = replace(record, curve=curve, val=none, test=none)
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for seconds, path in enumerate(paths):
        replace(record, train_seconds=float(seconds)).save(path)
    for svg in (learning_curve(record, []), learning_curves(*read_sides(*paths))):
        assert [text for text in _texts(svg) if text.endswith("0.02")] == ["0.02"]


@pytest.mark.parametrize(("accuracies", "top"), [((20.0, 99.9), 100.0), ((20.0, 60.0), 62.0)])
def test_an_axis_of_accuracies_ends_at_100_at_most(accuracies: tuple[float, float], top: float) -> None:
    axes = Figure().subplots()
    axes.plot(accuracies)
    bound_accuracies(axes)
    assert axes.get_ylim()[1] == pytest.approx(top)


def test_names_that_begin_alike_stay_apart(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path, classes=2)
    names = ["a very long name of one", "a very long name of two"]
    ticks = [text for text in _texts(confusion_matrix(replace(record, class_names=names))) if "…" in text]
    assert sorted(ticks) == ["a very …of one"] * 2 + ["a very …of two"] * 2


def test_without_val_there_is_no_val_line(tmp_path: Path, run_folder: MakeRun) -> None:
    texts = _texts(learning_curve(run_folder(tmp_path, val=False), []))
    assert not [text for text in texts if text.startswith("val")]
    assert [text for text in texts if text.startswith("test")]


def test_colours_are_variables(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path)
    for svg in (
        learning_curve(record, [(0.0, 2.3), (19.0, 2.0)]),
        confusion_matrix(record),
    ):
        root = ElementTree.fromstring(svg)
        assert not list(root.iter(f"{SVG}style"))
        for element in root.iter():
            style = dict(part.split(": ", 1) for part in element.get("style", "").split("; ") if ": " in part)
            for name in ("fill", "stroke"):
                assert style.get(name, "none").startswith(("none", "var(--"))
        assert all("fill: var(--ink" in element.get("style", "") for element in root.iter(f"{SVG}text"))


def test_equal_records_give_equal_bytes_in_any_process(tmp_path: Path, run_folder: MakeRun) -> None:
    record = run_folder(tmp_path)
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):  # a user's own settings
        here = learning_curve(record, []) + confusion_matrix(record)
    code = (
        "import sys; from pathlib import Path; from smallvit.record import RunRecord\n"
        "from smallvit.report.figures import confusion_matrix, learning_curve\n"
        "record = RunRecord.load(Path(sys.argv[1])); sys.stdout.reconfigure(encoding='utf-8')\n"
        "print(learning_curve(record, []) + confusion_matrix(record), end='')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    there = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "record.json")],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
    )
    assert there.stdout.decode() == here


def test_settings_of_matplotlib_are_left_alone(tmp_path: Path, run_folder: MakeRun) -> None:
    before = dict(mpl.rcParams)
    confusion_matrix(run_folder(tmp_path))
    assert dict(mpl.rcParams) == before
