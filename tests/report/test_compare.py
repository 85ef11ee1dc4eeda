"""Two runs side by side: McNemar against others' numbers, every change mirrored by a swap, what cannot be compared."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest, norm, ttest_rel
from sklearn.metrics import confusion_matrix, recall_score

from smallvit.data.config import DataConfig
from smallvit.errors import SmallvitError
from smallvit.record import SOURCE, RunRecord
from smallvit.report.compare import Comparison, compare
from smallvit.report.compare_figures import COLOURS, _draw
from smallvit.report.compare_numbers import class_changes, confusion_changes, quantities, signed
from smallvit.report.compare_pairs import ALTERED_TEST, mcnemar
from smallvit.report.compare_sides import read_sides, val_differs

MakeRun = Callable[..., RunRecord]
COUNTS = st.tuples(*[st.integers(0, 30)] * 4).filter(any)


def _answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.tensor([both, only_a, only_b, neither])
    return (
        torch.tensor([True, True, False, False]).repeat_interleave(counts),
        torch.tensor([True, False, True, False]).repeat_interleave(counts),
    )


def _change(run_folder: MakeRun, folder: Path, *, seed: int | None = None, sections: Any = None, **make: Any) -> None:
    """Make a run whose config has another seed, or other fields in some sections."""
    config = run_folder(folder, **make).run_config()
    changes = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in (sections or {}).items()}
    config = dataclasses.replace(config, seed=config.seed if seed is None else seed, **changes)
    run_folder(folder, config=config.to_json(), config_digest=config.digest(), **make)


def _two(run_folder: MakeRun, folder: Path, **make: Any) -> Comparison:
    run_folder(folder / "a", wrong=0.2, **make)
    _change(run_folder, folder / "b", sections={"model": {"num_cls_tokens": 1}}, wrong=0.1, draw=1, **make)
    return compare(folder / "a", folder / "b")


def test_a_published_table() -> None:
    """Approval of a prime minister, twice by the same 1,600 (Agresti, Categorical Data Analysis, section 10.1)."""
    found = mcnemar(*_answers(794, 150, 86, 570))
    assert (found.both_right, found.only_a, found.only_b, found.both_wrong) == (794, 150, 86, 570)
    # He finds z = -4.17 and the interval -0.04 +- 1.96 x 0.0095.
    assert found.p == pytest.approx(2 * norm.sf(4.17), rel=0.06)
    assert (found.low, found.high) == pytest.approx((-0.0587, -0.0213), abs=3e-4)


@given(COUNTS)
def test_p_is_half_way_between_two_binomial_tests_of_the_images_that_one_has_right(
    counts: tuple[int, int, int, int],
) -> None:
    """That of a split as uneven as was found or more, and that of a more uneven one."""
    found = mcnemar(*_answers(*counts))
    fewer, discordant = min(counts[1:3]), sum(counts[1:3])
    as_uneven = binomtest(fewer, discordant).pvalue if discordant else 1.0
    more_uneven = binomtest(fewer - 1, discordant).pvalue if fewer else 0.0
    assert found.p == (1.0 if counts[1] == counts[2] else pytest.approx((as_uneven + more_uneven) / 2))
    assert -1 <= found.low <= found.high <= 1
    assert found.low - 1e-12 <= (counts[2] - counts[1]) / (sum(counts) + 2) <= found.high + 1e-12


def test_p_and_interval_seldom_disagree() -> None:
    """Of all splits of up to 60 images among 10,000."""
    found = [mcnemar(*_answers(9000, a, b, 1000 - a - b)) for a in range(31) for b in range(31)]
    disagree = sum((each.p < 0.05) != (each.low > 0 or each.high < 0) for each in found)
    assert disagree / len(found) < 0.01


@given(COUNTS)
def test_swapping_the_runs_mirrors_the_test(counts: tuple[int, int, int, int]) -> None:
    a, b = _answers(*counts)
    one, other = mcnemar(a, b), mcnemar(b, a)
    assert (one.only_a, one.only_b, one.p) == (other.only_b, other.only_a, pytest.approx(other.p))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_equal_answers_tell_nothing() -> None:
    found = mcnemar(*_answers(60, 0, 0, 40))
    assert found.p == 1
    assert found.low == pytest.approx(-found.high)


def test_the_interval_covers_what_it_says() -> None:
    random = np.random.default_rng(0)
    shares, covered = np.array([0.6, 0.12, 0.08, 0.2]), 0
    for counts in random.multinomial(300, shares, size=1000).tolist():
        found = mcnemar(*_answers(*counts))
        covered += found.low <= shares[2] - shares[1] <= found.high
    assert 0.93 < covered / 1000 < 0.975


def test_swapping_the_sides_turns_every_sign(tmp_path: Path, run_folder: MakeRun) -> None:
    there = _two(run_folder, tmp_path)
    back = compare(tmp_path / "b", tmp_path / "a")
    for one, other in zip(there.quantities, back.quantities, strict=True):
        assert (one.a, one.b, one.a_interval) == (other.b, other.a, other.b_interval)
        assert one.change is not None
        assert other.change == pytest.approx(-one.change if one.change_as == "difference" else 1 / one.change)
    for of in (class_changes, confusion_changes):
        forth, reverse = of(there.a, there.b), of(back.a, back.b)
        assert sorted(each.change for each in forth) == sorted(-each.change for each in reverse)
        assert any(each.change for each in forth)
    assert [(each.name, each.a, each.b) for each in there.fields] == [(f.name, f.b, f.a) for f in back.fields]
    assert there.pairs is not None
    assert back.pairs is not None
    assert (there.pairs.gained, there.pairs.lost) == (back.pairs.lost, back.pairs.gained)
    assert there.p == back.p


def test_numbers_are_scikit_learns(tmp_path: Path, run_folder: MakeRun) -> None:
    found = _two(run_folder, tmp_path, count=1000)
    kept = [load_file(tmp_path / name / "test.safetensors") for name in "ab"]
    labels, answers = kept[0]["labels"].numpy(), [each["logits"].argmax(-1).numpy() for each in kept]
    recalls = [recall_score(labels, each, average=None) for each in answers]
    for row in class_changes(found.a, found.b):
        assert (row.a / row.count, row.b / row.count) == pytest.approx(tuple(each[row.label] for each in recalls))
        assert row.change == pytest.approx(100 * (recalls[1] - recalls[0])[row.label])
    changes = confusion_matrix(labels, answers[1]) - confusion_matrix(labels, answers[0])
    names = found.a.first.record.class_names
    for row in confusion_changes(found.a, found.b):
        cell = names.index(row.true), names.index(row.predicted)
        assert row.change == changes[cell]
        changes[cell] = 0
    assert not changes[~np.eye(10, dtype=bool)].any()  # none was left out
    assert found.pairs is not None
    right = [each == labels for each in answers]
    assert found.pairs.mcnemar.only_b == (right[1] & ~right[0]).sum()
    single: list[float] = []
    for label in range(10):
        fewer, more = sorted(int((right[i] & ~right[1 - i] & (labels == label)).sum()) for i in (0, 1))
        mids = [binomtest(k, fewer + more).pvalue for k in (fewer, fewer - 1) if k >= 0]
        single.append(1.0 if fewer == more else sum(mids) / 2)
    assert min(single) < 0.01
    order, corrected = np.argsort(single), np.empty(10)
    corrected[order] = np.maximum.accumulate(np.sort(single) * np.arange(10, 0, -1)).clip(max=1.0)
    assert found.pairs.class_p == pytest.approx(dict(enumerate(corrected.tolist())))


def test_every_quantity_is_the_records_in_its_unit(tmp_path: Path, run_folder: MakeRun) -> None:
    for row in _two(run_folder, tmp_path).quantities:
        for name in ("a", "b"):
            record = RunRecord.load(tmp_path / name / "record.json")
            assert record.val is not None
            expected = {
                "test accuracy, %": 100 * record.test.correct / 300,
                "test NLL, nats": record.test.negative_log_likelihood,
                "test ECE, %": 100 * record.test.calibration_error,
                "val accuracy, %": 100 * record.val.correct / 150,
                "training, s": 135.79253270899972,
                "training images/s": 188.39305200275803,
                "images seen, thousands": 25.6,
                "MACs of an image, millions": 16.519424,
                "parameters": 209738,
            }
            assert getattr(row, name) == (pytest.approx(expected[row.title]),), row.title


def test_where_classes_are_uneven_the_mean_over_them_stands_beside_the_accuracy(
    tmp_path: Path, run_folder: MakeRun
) -> None:
    _two(run_folder, tmp_path)
    a, b = (
        dataclasses.replace(
            side,
            runs=(
                dataclasses.replace(side.first, record=dataclasses.replace(side.first.record, test_confusion=matrix)),
            ),
        )
        for side, matrix in zip(
            read_sides(tmp_path / "a", tmp_path / "b"), ([[90, 10], [5, 5]], [[80, 20], [1, 9]]), strict=True
        )
    )
    row = next(row for row in quantities(a, b) if row.title == "mean of the classes, %")
    assert (row.a, row.b) == ((pytest.approx(70.0),), (pytest.approx(85.0),))
    assert row.written_change == "+15.00"


def test_the_curves_of_both_sides_are_their_records(tmp_path: Path, run_folder: MakeRun) -> None:
    _two(run_folder, tmp_path, test_curve=True)
    sides = read_sides(tmp_path / "a", tmp_path / "b")
    top, _ = _draw(*sides, with_val=True).axes
    for side in sides:
        lines = [line for line in top.lines if line.get_color() == COLOURS[side.name]]
        curve = side.first.record.curve
        expected = [[100 * getattr(point, split).accuracy for point in curve] for split in ("val", "test")]
        assert [np.asarray(line.get_ydata()).tolist() for line in lines] == expected
        for line in lines:
            assert np.asarray(line.get_xdata()).tolist() == [6.4, 12.8, 19.2, 25.6]  # thousands of images
    legend = top.get_legend()
    assert legend is not None
    names = {
        text.get_text(): line.get_color() for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }
    assert names == {f"{name}, {split}": COLOURS[name] for name in "AB" for split in ("val", "test")}


@pytest.mark.parametrize("same", [True, False])
def test_of_runs_at_two_sizes_images_of_the_same_files_are_paired(
    tmp_path: Path, run_folder: MakeRun, same: bool
) -> None:
    run_folder(tmp_path / "a")
    _change(run_folder, tmp_path / "b", sections={"model": {"image_size": 16}}, draw=1)
    for name, change in (("a", 0), ("b", 0 if same else 1)):
        path = tmp_path / name / "test.safetensors"
        files = (torch.arange(300) + change)[:, None] % 251 + 1
        save_file({**load_file(path), "files": files.to(torch.uint8)}, path)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert (found.pairs is not None) == same
    assert ("32 and 16 pixels" in found.unpaired) != same


def test_pictures_are_of_images_that_changed(tmp_path: Path, run_folder: MakeRun) -> None:
    pairs = _two(run_folder, tmp_path, count=1000).pairs
    assert pairs is not None
    a, b = (load_file(tmp_path / name / "test.safetensors") for name in "ab")
    for changed, wrong, right in ((pairs.gained, a, b), (pairs.lost, b, a)):
        assert changed
        for each in changed:
            assert each.index in wrong["mistakes"].tolist()
            assert each.true == f"class {int(right['logits'][each.index].argmax())}"
            assert each.true != each.predicted == f"class {int(wrong['logits'][each.index].argmax())}"
    assert pairs.kept == (24, 24)


def test_several_seeds_are_compared_by_students_paired_test(tmp_path: Path, run_folder: MakeRun) -> None:
    for seed in range(4):
        _change(run_folder, tmp_path / "a" / f"seed{seed}", seed=seed, draw=seed, wrong=0.2)
    for seed in (1, 2, 3, 7):
        sections = {"model": {"num_cls_tokens": 1}}
        _change(run_folder, tmp_path / "b" / f"seed{seed}", seed=seed, draw=10 + seed, wrong=0.1, sections=sections)
    (tmp_path / "b" / "seed9").mkdir()
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.a.seeds == found.b.seeds == [1, 2, 3]
    assert found.by_seed is not None
    expected = ttest_rel(found.b.accuracies, found.a.accuracies)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.by_seed.low == pytest.approx(100 * expected.confidence_interval().low)
    assert found.pairs is None
    notes = " ".join(found.warnings)
    assert "A: seed 0 left out, which B has not" in notes
    assert "B: seed 7 left out, which A has not" in notes
    assert f"{tmp_path / 'b' / 'seed9'} holds no finished run" in notes
    assert [each.name for each in found.fields] == ["model.num_cls_tokens"]


def test_a_record_alone_gives_numbers_and_no_test(tmp_path: Path, run_folder: MakeRun) -> None:
    _two(run_folder, tmp_path)
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "seed0.json").write_bytes((tmp_path / "b" / "record.json").read_bytes())
    for path in (tmp_path / "seeds" / "seed0.json", tmp_path / "seeds"):
        found = compare(tmp_path / "a", path)
        assert (found.pairs, found.p) == (None, None)
        assert found.unpaired.startswith("B is a record alone")
        assert found.quantities[0].change is not None
    assert compare(tmp_path / "a" / "record.json", tmp_path / "b" / "record.json").pairs is not None


def test_what_differs_is_listed_and_what_it_makes_of_the_numbers(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path / "a")
    choices = dataclasses.replace(run_folder(tmp_path / "x").choices, num_threads=1)
    sections = {"data": {"val_fraction": 0.2}, "evaluate": {"batch_size": 7}, "optim": {"betas": (0.9, 0.95)}}
    make = {"choices": choices, "versions": {"torch": "9"}, "val_sha256": 64 * "c", "draw": 1}
    make["channel_mean"] = [0.1, 0.2, 0.3]
    _change(run_folder, tmp_path / "b", sections=sections, **make)
    found = compare(tmp_path / "a", tmp_path / "b")
    fields = {each.name: each for each in found.fields}
    assert fields.keys() == {"data.val_fraction", "evaluate.batch_size", "optim.betas"}
    assert [name for name, each in fields.items() if not each.decides] == ["evaluate.batch_size"]
    assert fields["optim.betas"].b == "0.9, 0.95"
    besides = {each.name: (each.a, each.b) for each in found.surroundings}
    assert besides["threads"] == ("2", "1")
    assert besides["torch's version"] == ("2.13.0", "9")
    assert besides["mean and deviation of their colours"][1].startswith("0.1000, 0.2000, 0.3000; ")
    untold = {row.title: row.note for row in found.quantities if row.change is None}
    assert untold.keys() == {"val accuracy, %", "training, s", "training images/s"}
    assert compare(tmp_path / "a", tmp_path / "b").warnings == []


def test_what_differs_between_two_runs_of_one_seed_is_told_where_the_sides_have_the_same_values(
    tmp_path: Path, run_folder: MakeRun
) -> None:
    few = dataclasses.replace(run_folder(tmp_path / "x").choices, num_threads=1)
    for side, of_seeds in (("a", (None, few, few)), ("b", (None, few, None))):
        for seed, choices in enumerate(of_seeds):
            make = {} if choices is None else {"choices": choices}
            _change(run_folder, tmp_path / side / f"seed{seed}", seed=seed, draw=int(side == "b"), **make)
    besides = {each.name: (each.a, each.b) for each in compare(tmp_path / "a", tmp_path / "b").surroundings}
    assert besides["threads"] == ("2 / 1 / 1", "2 / 1 / 2")


def test_val_is_told_apart_by_its_digest_at_one_size(tmp_path: Path, run_folder: MakeRun) -> None:
    def is_told_apart(size: int | None = None, **make: Any) -> bool:
        run_folder(tmp_path / "a")
        sections = {} if size is None else {"model": {"image_size": size}}
        _change(run_folder, tmp_path / "b", sections=sections, draw=1, **make)
        return val_differs(*(side.first for side in read_sides(tmp_path / "a", tmp_path / "b")))

    assert not is_told_apart()
    assert is_told_apart(val_sha256=64 * "c")
    assert not is_told_apart(val_sha256=64 * "c", size=64)
    assert not is_told_apart(val_sha256=None)


def test_a_side_without_val_leaves_the_others_alone(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path / "a")
    _change(run_folder, tmp_path / "b", sections={"data": {"val_fraction": 0.0}}, val=False, draw=1)
    sides = read_sides(tmp_path / "a", tmp_path / "b")
    (row,) = (row for row in quantities(*sides) if row.title == "val accuracy, %")
    assert (len(row.a), row.b, row.note) == (1, (), "")
    assert not val_differs(sides[0].first, sides[1].first)
    legend = _draw(*sides, with_val=True).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["A, val", "A, test", "B, test"]


def test_confidences_are_at_the_runs_temperatures(tmp_path: Path, run_folder: MakeRun) -> None:
    found = _two(run_folder, tmp_path).pairs
    assert found is not None
    for changed, wrong, right in ((found.gained, "a", "b"), (found.lost, "b", "a")):
        of = {each: load_file(tmp_path / each / "test.safetensors")["logits"].double() for each in "ab"}
        for each in changed:
            sure = (of[wrong][each.index] / 0.5).softmax(-1)
            assert each.confidence == pytest.approx(float(sure.max()))
            other = (of[right][each.index] / 0.5).softmax(-1)
            assert each.right_confidence == pytest.approx(float(other.max()))
        assert changed


@pytest.mark.parametrize(
    ("seed", "scale", "words"),
    [
        (5, 1.0, "differ in nothing but the seed"),
        (0, 1.0, "have the same config"),
        (0, 0.5, "scaled: B 50 % of the full length"),
    ],
)
def test_what_a_reader_must_know_first(
    tmp_path: Path, run_folder: MakeRun, seed: int, scale: float, words: str
) -> None:
    config = dataclasses.replace(run_folder(tmp_path / "a").run_config(), seed=seed, scale=scale)
    run_folder(tmp_path / "b", config=config.to_json(), config_digest=config.digest(), draw=1)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert len(found.warnings) == 1
    assert words in found.warnings[0]


def test_what_the_config_does_not_tell_of_a_run_is_told(tmp_path: Path, run_folder: MakeRun) -> None:
    def warnings(fork: str | None, source: str | None) -> list[str]:
        config = dataclasses.replace(run_folder(tmp_path / "a", versions={SOURCE: "0a"}).run_config(), fork=fork)
        make = {"config": config.to_json(), "config_digest": config.digest(), "draw": 1}
        run_folder(tmp_path / "b", versions={} if source is None else {SOURCE: source}, **make)
        return compare(str(tmp_path / "a"), str(tmp_path / "b")).warnings

    assert warnings("1" * 64, "0a") == ["B began with the weights of another run, of which nothing is counted here"]
    assert warnings(None, "0b") == [
        "A and B have the same config, of other sources of smallvit: what differs may be an effect of those"
    ]
    for source in ("0a", None):
        assert warnings(None, source)[0].endswith("what differs between them is no effect of it")


def test_times_are_told_apart_by_the_machine_of_each_seed(tmp_path: Path, run_folder: MakeRun) -> None:
    def noted(*processors: str) -> set[str]:
        for name in "ab":
            for seed in range(3):
                hardware = {"processor": processors[seed] if name == "b" else "XXY"[seed]}
                _change(run_folder, tmp_path / name / f"seed{seed}", seed=seed, draw=seed, hardware=hardware)
                if name == "b":
                    sections = {"model": {"num_cls_tokens": 1}}
                    folder = tmp_path / name / f"seed{seed}"
                    _change(run_folder, folder, seed=seed, draw=9 + seed, hardware=hardware, sections=sections)
        return {row.note for row in compare(tmp_path / "a", tmp_path / "b").quantities if row.note}

    words = "hardware, device or threads differ"
    assert words not in noted("X", "X", "Y")
    assert words in noted("X", "Y", "Y")


@pytest.mark.parametrize(("models", "same"), [("11", True), ("12", False), ("1", True), ("", True)])
def test_machines_of_one_name_are_told_apart_by_the_model_where_both_have_it(
    models: str, same: bool, tmp_path: Path, run_folder: MakeRun
) -> None:
    for index, name in enumerate("ab"):
        model = {"processor_model": f"family 25, model {models[index]}"} if index < len(models) else {}
        run_folder(tmp_path / name, hardware={"processor": "AMD EPYC", "cores": 2, **model}, draw=index)
    notes = {row.note for row in compare(tmp_path / "a", tmp_path / "b").quantities}
    assert ("hardware, device or threads differ" not in notes) == same


def test_rows_that_need_not_be_the_same_images_are_not_paired(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path / "a")
    _change(run_folder, tmp_path / "b", sections={"model": {"image_size": 16}}, draw=1)
    assert "32 and 16 pixels" in compare(tmp_path / "a", tmp_path / "b").unpaired
    for name, notes in (("c", []), ("d", [f"x: {ALTERED_TEST} of cifar10 (JPEG)"])):
        config = dataclasses.replace(run_folder(tmp_path / name).run_config(), data=DataConfig(dataset="cifar10"))
        digest = {"config": config.to_json(), "config_digest": config.digest()}
        run_folder(tmp_path / name, **digest, dataset_notes=notes, draw=ord(name))
    assert compare(tmp_path / "c", tmp_path / "d").unpaired.startswith("B has other pixels")


def _other_pictures(folder: Path) -> None:
    kept = load_file(folder / "test.safetensors")
    save_file({**kept, "mistake_images": 255 - kept["mistake_images"]}, folder / "test.safetensors")


def test_other_pictures_are_another_test_set(tmp_path: Path, run_folder: MakeRun) -> None:
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", train_seconds=1.0)  # the same answers, hence mistakes in common
    found = compare(tmp_path / "a", tmp_path / "b")
    assert (found.p, found.quantities[0].change) == (1.0, 0.0)
    _other_pictures(tmp_path / "b")
    with pytest.raises(SmallvitError, match=r"different test sets: row .* is another picture"):
        compare(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(1.234, ".2f", "+1.23"), (-1.2, ".1f", "\N{MINUS SIGN}1.2"), (-0.001, ".2f", "0.00"), (0.0, ",.0f", "0")],
)
def test_signs(value: float, form: str, text: str) -> None:
    assert signed(value, form) == text
