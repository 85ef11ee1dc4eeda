"""The figures of a study: what is drawn is what the records say, with units, and labelled where it is scaled."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image

from smallvit.report.collect import Section
from smallvit.report.numbers import Numbers, numbers_of
from smallvit.report.records import Run
from smallvit.report.study_figures import drawings
from smallvit.report.svg import PAPER, Drawing, save_figure
from smallvit.study.rows import Study, changed
from smallvit.study.studies import STUDIES
from study_records import fake_record

SVG = "{http://www.w3.org/2000/svg}"
UNITS = {
    "accuracy": {"test accuracy, %"},
    "differences": {"difference from full q, k and v, points"},
    "latent-width": {"latent width, and as a share of the width of 96", "test accuracy, %"},
    "flops": {"forward pass of an image, MFLOPs (2 x MACs)", "test accuracy, %"},
    "seconds": {"training time of a run, min", "test accuracy, %"},
    "curves": {"training images seen, thousands", "val accuracy, %"},
    "confusion": {"true class", "predicted class"},
}


def _numbers(study: Study, accuracies: dict[str, Sequence[float]]) -> Numbers:
    """Return the numbers of rows with these accuracies, a seed each."""
    runs = {
        row.label: [
            Run(path=Path("x"), record=fake_record(config, value, seconds=100.0 + 40 * number))
            for seed, value in enumerate(accuracies.get(row.label, ()))
            for config in [row.at(seed)]
        ]
        for number, row in enumerate(study.rows)
    }
    return numbers_of(Section(study=study, runs=runs))


LATENTS: dict[str, Sequence[float]] = {
    "full q, k and v": (70.0, 71.0),
    "q at 24 of 96": (69.0, 69.4),
    "q at 48 of 96": (69.8, 70.6),
    "kv at 24 of 96": (65.0, 66.5),
}


@pytest.fixture(scope="module")
def latents() -> Numbers:
    return _numbers(STUDIES["latents-small"](), LATENTS)


def _drawing(numbers: Numbers, name: str) -> Drawing:
    return next(drawing for drawing in drawings(numbers) if drawing.name == name)


def _figure(numbers: Numbers, name: str) -> Figure:
    return _drawing(numbers, name).draw()


def _texts(svg: str) -> set[str]:
    return {element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")}


def test_a_study_has_the_figures_that_it_has_something_to_show_in(latents: Numbers) -> None:
    assert [drawing.name for drawing in drawings(latents)] == list(UNITS)
    study = STUDIES["augmentation"]()
    names = [drawing.name for drawing in drawings(_numbers(study, {"none": [60.0], "crop and flip": [62.0]}))]
    assert names == ["accuracy", "differences", "seconds", "curves", "confusion"]


def test_changes_together_stand_beside_the_sum_of_what_they_do_alone() -> None:
    means = {"full q, k and v": 70.0, "q at 24 of 96": 69.0, "k at 24 of 96": 68.5, "qk at 24 of 96": 66.0}
    found = _numbers(STUDIES["latents-small"](), {label: (mean, mean + 0.5) for label, mean in means.items()})
    (axes,) = _figure(found, "together").axes
    points = sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "o")
    assert points == pytest.approx([-4.0, -2.5])
    assert [text.get_text() for text in axes.texts] == ["qk at 24 of 96"]


def test_the_interval_of_changes_together_is_that_of_gain_less_sum() -> None:
    means = {"full q, k and v": 70.0, "q at 24 of 96": 69.0, "k at 24 of 96": 68.5, "qk at 24 of 96": 66.0}
    values = {label: (mean, mean + 0.5 + len(label) % 2 / 10) for label, mean in means.items()}
    found = _numbers(STUDIES["latents-small"](), values)
    (axes,) = _figure(found, "together").axes
    ((start, end),) = [bar for box in axes.containers for bars in box.lines[2] for bar in bars.get_segments()]
    (each,) = found.together
    half = each.excess.high - each.excess.mean
    assert (start[0], end[0]) == pytest.approx((each.expected - half, each.expected + half))


STACKED = {
    "plain": 60.0,
    "depthwise convolution in the MLPs": 64.0,
    "convolutional tokenizer that pools": 70.0,
    "Muon at 8e-3": 66.0,
    "pooling tokenizer and depthwise convolution": 72.0,
    "pooling tokenizer and Muon at 8e-3": 71.0,
    "pooling tokenizer, depthwise convolution and Muon at 8e-3": 75.0,
    "best three and whitened patches": 74.5,
}


def test_the_best_row_that_unites_changes_is_reached_a_change_at_a_time_by_the_best_on_the_way() -> None:
    found = _numbers(STUDIES["changes"](), {row: (mean, mean + 0.2 + len(row) % 3) for row, mean in STACKED.items()})
    (axes,) = _figure(found, "stack").axes
    assert [text.get_text() for text in axes.texts] == [
        "plain",
        "and convolutional tokenizer that pools",
        "and depthwise convolution in the MLPs",
        "and Muon at 8e-3",
    ]
    way = [label for label in STACKED if label not in ("depthwise convolution in the MLPs", "Muon at 8e-3")]
    lines = [found.line(way[i]) for i in (0, 1, 2, 4)]
    bars = [bar for box in axes.containers for each in box.lines[2] for bar in each.get_segments()]
    pairs = {(pair.label, pair.against): pair.difference for pair in found.pairs}
    first = lines[1].difference
    gains = [first, pairs[way[2], way[1]], pairs[way[4], way[2]]]
    for bar, line, gain in zip(bars, lines[1:], gains, strict=True):
        assert gain is not None
        assert bar[:, 0] == pytest.approx((line.last.mean - gain.half, line.last.mean + gain.half))


def test_changes_that_no_row_has_alone_are_named_all_the_same() -> None:
    """As within a budget, which pays for the rows that unite changes first."""
    means = {label: mean for label, mean in STACKED.items() if "and" in label or label == "plain"}
    for seeds, more in ((1, ""), (2, "; 95 % interval of the gain over the row above")):
        accuracies = {row: (mean, mean + len(row) % 3)[:seeds] for row, mean in means.items()}
        figure = _figure(_numbers(STUDIES["changes"](), accuracies), "stack")
        first, both, last = [text.get_text() for text in figure.axes[0].texts]
        assert (first, last) == ("plain", "and Muon at 8e-3")
        assert both.startswith("and depthwise convolution in the MLPs and convolutional t")
        assert _keys(figure) == [f"mean{more}"]


def test_a_study_without_stacks_has_no_such_figure() -> None:
    means = {"full q, k and v": (70.0,), "q at 24 of 96": (69.0,), "k at 24 of 96": (68.5,), "qk at 24 of 96": (66.0,)}
    assert "stack" not in {drawing.name for drawing in drawings(_numbers(STUDIES["latents-small"](), means))}


@pytest.mark.parametrize("name", ["paper", "changes"])
def test_every_row_of_a_study_can_be_drawn(name: str) -> None:
    study = STUDIES[name]()
    figures = [drawing.draw() for drawing in drawings(_numbers(study, {row.label: [60.0] for row in study.rows}))]
    for figure in figures:
        figure.draw_without_rendering()
    assert [text.get_text() for text in figures[0].axes[0].texts] == [row.label for row in study.rows]


@pytest.mark.parametrize("name", UNITS)
def test_axes_have_units_and_files_are_whole(latents: Numbers, tmp_path: Path, name: str) -> None:
    drawing = _drawing(latents, name)
    svg, paths = save_figure(drawing, "p", tmp_path / "a")
    assert UNITS[name] <= _texts(svg)
    assert paths == [tmp_path / f"a.{kind}" for kind in ("svg", "png", "pdf")]
    assert paths[2].read_bytes().startswith(b"%PDF-")
    assert UNITS[name] <= _texts(paths[0].read_text())
    picture = Image.open(paths[1]).convert("RGB")
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.width == 1080
    again, _ = save_figure(drawing, "p", tmp_path / "b")
    assert again == svg
    for path in paths[1:]:
        assert path.with_stem("b").read_bytes() == path.read_bytes()
    for element in ElementTree.fromstring(svg).iter():
        style = dict(part.split(": ", 1) for part in element.get("style", "").split("; ") if ": " in part)
        for kind in ("fill", "stroke"):
            assert style.get(kind, "none").startswith(("none", "var(--"))


def test_a_date_of_nonsense_in_the_environment_stops_no_figure(
    latents: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_figure(_drawing(latents, "latent-width"), "p", tmp_path / "a")
    for date in ("x", "9" * 20, "0"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
        _, paths = save_figure(_drawing(latents, "latent-width"), "p", tmp_path / "b")
        assert [path.read_bytes() for path in paths] == [path.with_stem("a").read_bytes() for path in paths]
        assert os.environ["SOURCE_DATE_EPOCH"] == date


@pytest.mark.parametrize("name", [*UNITS])
def test_a_scaled_figure_says_so(name: str) -> None:
    scaled = _numbers(STUDIES["latents-small"]().scaled(0.5), LATENTS)
    title = _figure(scaled, name).get_suptitle()
    assert title == "Scaled: 50 % of the full length"


def test_a_figure_of_full_length_is_not_called_scaled(latents: Numbers) -> None:
    assert {drawing.draw().get_suptitle() for drawing in drawings(latents)} == {""}


def _points(figure: Figure) -> set[tuple[float, float]]:
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in figure.axes[0].lines
        for x, y in zip(np.ravel(line.get_xdata()), np.ravel(line.get_ydata()), strict=True)
    }


def test_each_row_has_its_mean_and_seeds_and_the_published_number() -> None:
    accuracies: dict[str, Sequence[float]] = {"baseline": (93.0, 93.4), "low-rank q": (92.0,)}
    full = _numbers(STUDIES["paper"](), accuracies)
    points = _points(_figure(full, "accuracy"))
    assert points >= {(93.2, 0.0), (93.0, 0.0), (93.4, 0.0), (92.0, 1.0), (93.65, 0.0), (93.32, 1.0)}
    line = full.line("baseline")
    assert line.best is not None
    assert (round(line.best.mean, 6), 0.0) in points
    scaled = _numbers(STUDIES["paper"]().scaled(0.02), accuracies)
    assert not {(93.65, 0.0), (93.32, 1.0)} & _points(_figure(scaled, "accuracy"))
    assert "of the full length" in _drawing(scaled, "accuracy").caption
    gaps = _points(_figure(full, "differences"))
    assert gaps >= {(-0.33, 0.0)}
    assert any(x == pytest.approx(-1.0) for x, y in gaps if y == 0)
    assert (-0.33, 0.0) not in _points(_figure(scaled, "differences"))
    assert "diamonds" in _drawing(full, "differences").caption
    assert "diamonds" not in _drawing(scaled, "differences").caption


def _keys(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_legend_promises_no_interval_that_is_not_there() -> None:
    single = _numbers(STUDIES["paper"](), {"baseline": (93.0,), "low-rank q": (92.0,)})
    assert _keys(_figure(single, "accuracy"))[0] == "last epoch, one seed"
    assert _keys(_figure(single, "differences")) == ["ours, not tested", "published"]
    several = _numbers(STUDIES["latents-small"](), LATENTS)
    assert _keys(_figure(several, "accuracy"))[:2] == ["last epoch, mean and 95 % interval", "single seeds"]
    assert _keys(_figure(several, "differences")) == ["resolved, with 95 % interval", "not resolved"]
    means = {"full q, k and v": 70.0, "q at 24 of 96": 69.0, "k at 24 of 96": 68.5, "qk at 24 of 96": 66.0}
    for seeds, more in ((1, ""), (2, "; 95 % interval of gain less sum")):
        values = {label: [mean, mean + 0.5 + len(label) % 2 / 10][:seeds] for label, mean in means.items()}
        keys = _keys(_figure(_numbers(STUDIES["latents-small"](), values), "together"))
        assert keys == ["together", f"sum of its parts alone{more}"]


def test_a_caption_names_no_mark_that_is_not_there() -> None:
    """Of a row that the paper has not."""
    for scale in (1.0, 0.02):
        found = _numbers(STUDIES["paper"]().scaled(scale), {"baseline": (93.0,), "2 CLS tokens": (93.2,)})
        assert "ublished" not in _drawing(found, "differences").caption
        assert "published" not in _keys(_figure(found, "differences"))


def test_what_is_not_tested_is_hollow() -> None:
    single = _numbers(STUDIES["latents-small"](), {"full q, k and v": (70.0,), "q at 24 of 96": (69.0,)})
    figure = _figure(single, "differences")
    faces = {line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "o"}
    assert faces == {"none"} == {handle.get_markerfacecolor() for handle in figure.legends[0].get_lines()}


def test_any_label_has_room_in_a_figure_of_costs() -> None:
    study = STUDIES["augmentation"]()
    names = {"none": "a\x1b name of a row that goes on " * 5, "crop and flip": "crop and flip"}
    rows = tuple(replace(row, label=names[row.label]) for row in study.rows if row.label in names)
    figure = _figure(_numbers(replace(study, rows=rows), dict.fromkeys(names.values(), (60.0,))), "seconds")
    figure.draw_without_rendering()
    assert all(text.get_text().isprintable() for text in figure.axes[1].texts)
    assert max(text.get_window_extent().x1 for text in figure.axes[1].texts) <= figure.bbox.x1


def test_no_axis_of_accuracies_goes_beyond_100() -> None:
    rows: dict[str, Sequence[float]] = {"width 96, 1 CLS token": (99.9,), "width 96, 2 CLS tokens": (99.95,)}
    low, high = _figure(_numbers(STUDIES["cls-tokens-small"](), rows), "cls-tokens").axes[0].get_ylim()
    assert low < 99.5
    assert high == 100


def test_a_difference_is_filled_where_it_is_resolved() -> None:
    rows: dict[str, Sequence[float]] = {
        "q at 24 of 96": (60.1, 61.0),
        "k at 24 of 96": (70.2, 71.0),
        "v at 24 of 96": (5,),
    }
    found = _numbers(STUDIES["latents-small"](), {"full q, k and v": (70.0, 71.0), **rows})
    (axes,) = _figure(found, "differences").axes
    filled = {
        label.get_text(): {line.get_markerfacecolor() for line in axes.lines if line.get_ydata()[0] == y}
        for y, label in enumerate(axes.texts)
    }
    resolved = {label for label in rows if (found.line(label).difference or pytest.fail(label)).resolved}
    assert resolved == {"q at 24 of 96"}
    assert {label for label, faces in filled.items() if "none" in faces} == rows.keys() - resolved
    assert "not resolved, or not tested" in _drawing(found, "differences").caption


@pytest.mark.parametrize("name", ["together", "accuracy", "differences", "latent-width"])
def test_a_legend_is_no_wider_than_its_figure(name: str) -> None:
    means = {"full q, k and v": 70.0, "q at 24 of 96": 69.0, "k at 24 of 96": 68.5, "qk at 24 of 96": 66.0}
    values = {label: (mean, mean + 0.5 + len(label) % 2 / 10) for label, mean in means.items()}
    figure = _figure(_numbers(STUDIES["latents-small"](), values), name)
    (legend,) = figure.legends
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1


@pytest.mark.parametrize("name", ["flops", "seconds"])
def test_points_of_a_cost_have_the_intervals_of_their_rows(latents: Numbers, name: str) -> None:
    axes = _figure(latents, name).axes[0]
    (bars,) = [bars for container in axes.containers for bars in container.lines[2]]
    halves = [(segment[1][1] - segment[0][1]) / 2 for segment in bars.get_segments()]
    np.testing.assert_allclose(halves, [line.last.half for line in latents.lines])


def test_rows_have_their_own_intervals_and_differences_theirs(latents: Numbers) -> None:
    differences = [line.difference for line in latents.lines if line.difference]
    for name, rows in (("accuracy", [line.last for line in latents.lines]), ("differences", differences)):
        (axes,) = _figure(latents, name).axes
        bars = [bar for box in axes.containers for bars in box.lines[2] for bar in bars.get_segments()]
        ends = [(row.mean - row.half, row.mean + row.half) for row in rows]
        np.testing.assert_allclose([bar[:, 0] for bar in bars], ends)


@pytest.mark.parametrize("name", ["cls-tokens", "seconds"])
def test_noise_does_not_fill_the_axis(name: str) -> None:
    rows: dict[str, Sequence[float]] = {"width 96, 1 CLS token": (70.0,), "width 96, 2 CLS tokens": (70.1,)}
    low, high = _figure(_numbers(STUDIES["cls-tokens-small"](), rows), name).axes[0].get_ylim()
    assert high - low == pytest.approx(2)
    assert (high + low) / 2 == pytest.approx(70.05)


def test_latents_beside_a_reference_that_is_low_rank_itself_have_no_figure_that_calls_it_full() -> None:
    study = replace(STUDIES["latents-small"](), reference="q at 24 of 96")
    assert "latent-width" not in [drawing.name for drawing in drawings(_numbers(study, LATENTS))]


def test_latents_have_a_line_for_each_set_of_them(latents: Numbers) -> None:
    axes = _figure(latents, "latent-width").axes[0]
    lines = {
        container.get_label(): container.lines[0].get_xydata()
        for container in axes.containers  # of error bars
    }
    assert lines.keys() == {"q", "kv"}
    np.testing.assert_allclose(lines["q"][:, 1], [69.2, 70.2])
    assert np.all(np.abs(lines["q"][:, 0] - [25, 50]) < 3)
    np.testing.assert_allclose(lines["kv"][:, 1], [65.75])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["24\n25 %", "48\n50 %", "96\n100 %"]
    assert axes.lines[0].get_ydata()[0] == 70.5


def test_marks_at_the_full_width_have_room_beside_one_another() -> None:
    whole = {row.label: (70.0, 71.0) for row in STUDIES["latents-small"]().rows if " at 96 of 96" in row.label}
    figure = _figure(_numbers(STUDIES["latents-small"](), LATENTS | whole), "latent-width")
    (axes,), (legend,) = figure.axes, figure.legends
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
    places = [x for container in axes.containers for x in container.lines[0].get_xdata()]
    low, high = axes.get_xlim()
    assert len(whole) == 14
    assert low + 1 < min(places)
    assert max(places) < high - 1


def test_spectral_first_weights_are_a_hollow_line_beside_that_of_the_others() -> None:
    rows = LATENTS | {"q at 24 of 96, spectral": (70.4, 70.6), "v at 96 of 96, spectral": (68.0, 69.0)}
    found = _numbers(STUDIES["latents-small"](), rows)
    axes = _figure(found, "latent-width").axes[0]
    lines = {container.get_label(): container.lines[0] for container in axes.containers}
    assert list(lines) == ["q", "q, spectral", "v, spectral", "kv"]
    np.testing.assert_allclose(lines["q, spectral"].get_xydata()[:, 1], [70.5])
    assert lines["q, spectral"].get_color() == lines["q"].get_color()
    assert [line.get_markerfacecolor() == PAPER for line in lines.values()] == [False, True, True, False]
    assert "Hollow: with other first weights (model.init)." in _drawing(found, "latent-width").caption


def test_in_a_page_a_hollow_mark_is_filled_with_its_background_and_in_a_file_white(tmp_path: Path) -> None:
    rows = LATENTS | {"v at 96 of 96, spectral": (68.0, 69.0)}
    svg, paths = save_figure(_drawing(_numbers(STUDIES["latents-small"](), rows), "latent-width"), "x", tmp_path / "x")
    assert "fill: var(--page, #ffffff)" in svg
    assert "fill: #ffffff" not in svg
    assert "fill: #ffffff" in paths[0].read_text()


def test_tokens_have_a_line_for_each_width() -> None:
    accuracies: dict[str, Sequence[float]] = {
        "width 96, 1 CLS token": (70.0, 71.0),
        "width 96, 2 CLS tokens": (70.5, 71.9),
        "width 192, 3 CLS tokens": (75.0, 75.2),
        "width 192, 1 CLS token": (74.0, 74.1),
    }
    axes = _figure(_numbers(STUDIES["cls-tokens-small"](), accuracies), "cls-tokens").axes[0]
    lines = {container.get_label(): container.lines[0].get_xydata() for container in axes.containers}
    np.testing.assert_allclose(lines["width 96"], [[1, 70.5], [2, 71.2]], atol=0.03)
    np.testing.assert_allclose(lines["width 192"], [[1, 74.05], [3, 75.1]], atol=0.03)


def test_rows_of_other_numbers_of_heads_are_no_step_of_the_tokens_line() -> None:
    study = STUDIES["cls-tokens-small"]()
    first, *_ = study.rows
    heads = replace(first, label="other heads", config=changed(first.config, {"model.num_heads": 6}))
    tokens = replace(first, label="other tokens", config=changed(first.config, {"model.num_cls_tokens": 3}))
    heads, tokens = (replace(row, config=replace(row.config, recipe=row.label[6:])) for row in (heads, tokens))
    study = replace(study, rows=(first, heads, tokens), reference=first.label)
    figure = _figure(
        _numbers(study, {first.label: (70.0,), "other heads": (60.0,), "other tokens": (71.0,)}), "cls-tokens"
    )
    lines = {container.get_label(): container.lines[0].get_ydata() for container in figure.axes[0].containers}
    assert {name: list(values) for name, values in lines.items()} == {
        "width 96, 3 heads": [70.0, 71.0],
        "width 96, 6 heads": [60.0],
    }


def test_every_number_beside_a_point_can_be_read() -> None:
    """Of 20 rows, most of which have the same arithmetic."""
    study = STUDIES["paper"]()
    values = {row.label: (90 + 0.12 * (7 * i % 20),) for i, row in enumerate(study.rows)}
    figure = _figure(_numbers(study, values), "flops")
    figure.draw_without_rendering()
    notes = [each for each in figure.axes[0].texts if isinstance(each, Annotation)]
    assert [note.get_text() for note in notes] == [str(number) for number in range(1, 21)]
    boxes = [note.get_window_extent() for note in notes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    names = [text.get_text() for text in figure.axes[1].texts]
    assert names == [f"{number}. {row.label}" for number, row in enumerate(study.rows, 1)]


def test_of_many_rows_those_are_named_that_none_beats_at_their_cost() -> None:
    study = STUDIES["changes"]()
    values: dict[str, Sequence[float]] = {row.label: (60.0,) for row in study.rows}
    values |= {"Muon at 8e-3": (70.0,), "convolutional tokenizer": (65.0,), "8 blocks": (71.0,)}
    numbers = _numbers(study, values)
    axes, names = _figure(numbers, "flops").axes
    assert [text.get_text().split(". ")[1] for text in names.texts] == [
        study.reference,
        "8 blocks",
        "1 of 4 blocks is class attention",
        "Muon at 8e-3",
    ]
    assert [np.size(line.get_xdata()) for line in axes.lines] == [len(study.rows) - 4, 4]
    assert "those that no other beats" in _drawing(numbers, "flops").caption


def test_the_learning_curve_is_the_mean_of_the_seeds(latents: Numbers) -> None:
    axes = _figure(latents, "curves").axes[0]
    reference = next(line for line in axes.lines if line.get_label() == "full q, k and v")
    last = np.asarray(reference.get_ydata(), dtype=float)[-1]
    assert last == pytest.approx(fmean(v * (1 - 0.5 / 12) for v in LATENTS["full q, k and v"]), abs=0.01)
    assert np.asarray(reference.get_xdata(), dtype=float)[-1] == 540.0


def test_a_curve_of_nothing_right_has_no_accuracy_below_0() -> None:
    numbers = _numbers(STUDIES["latents-small"](), dict.fromkeys(LATENTS, (0.0,)))
    assert _figure(numbers, "curves").axes[0].get_ylim()[0] == 0


def test_of_many_rows_the_best_and_the_worst_curves_are_named() -> None:
    study = STUDIES["latents-small"]()
    values = {row.label: (60.0 + i,) for i, row in enumerate(study.rows[:12])}
    numbers = _numbers(study, values)
    labels = [line.get_label() for line in _figure(numbers, "curves").axes[0].lines]
    assert [label for label in labels if not str(label).startswith("_")] == [
        study.rows[1].label,
        study.rows[11].label,
        study.reference,
    ]
    assert "the others are thin lines" in _drawing(numbers, "curves").caption


def test_the_confusion_matrix_is_the_sum_of_the_seeds(latents: Numbers) -> None:
    texts = {text.get_text() for text in _figure(latents, "confusion").axes[0].texts}
    runs = latents.section.runs["full q, k and v"]
    summed = np.sum([run.record.test_confusion for run in runs], axis=0)
    assert texts == {str(count) for count in summed.ravel() if count}
    assert "the sum over 2 seeds" in _drawing(latents, "confusion").caption
