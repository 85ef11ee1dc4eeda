"""How long runs will take: against real ones, and by arithmetic."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from smallvit.bench.pace import START_SECONDS, Pace, measured_pace, num_images, pace_of
from smallvit.bench.workload import Workload
from smallvit.data.store import load_dataset
from smallvit.recipes import RECIPES
from smallvit.record import RunRecord
from smallvit.run import run
from smallvit.study.forecast import Forecast, shape
from smallvit.study.rows import Row
from smallvit.study.tasks import Task
from tiny_study import BASE

CONFIG = replace(
    BASE,
    train=replace(BASE.train, epochs=6),
    device=replace(BASE.device, num_threads=1, attention="bmm"),
)


def task(config: object, folder: Path) -> Task:
    return Task(row=Row(label="row", config=config), seed=0, folder=folder, config=config)


@contextmanager
def own_time() -> Generator[None]:
    """Let a run's clocks count what its process computes, on one thread: other work on the machine adds to no step."""
    clock = SimpleNamespace(perf_counter=time.process_time)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("training", "device.choose"):
            patch.setattr(f"smallvit.{module}.time", clock)
        yield


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    with own_time():
        return run(CONFIG, tmp_path_factory.mktemp("run"))


def test_the_images_of_a_named_data_set_are_known_beforehand() -> None:
    found = load_dataset(CONFIG.data, image_size=32)
    assert found.val is not None
    sizes = [len(split.labels) for split in (found.train, found.val, found.test)]
    known = num_images(CONFIG)
    assert known is not None
    assert sum(known) == sum(sizes)
    assert all(abs(a - b) <= 10 for a, b in zip(known, sizes, strict=True))
    assert num_images(RECIPES["baseline"]()) == (45_000, 5_000, 10_000)


def test_a_finished_run_tells_how_long_it_took(record: RunRecord) -> None:
    seconds = pace_of(record).seconds(CONFIG) - START_SECONDS
    assert seconds == pytest.approx(record.train_seconds + record.evaluate_seconds, rel=0.05)
    tenfold = replace(CONFIG, train=replace(CONFIG.train, epochs=60))
    assert tenfold.num_steps(record.num_train) == 10 * CONFIG.num_steps(record.num_train) == 360


def test_seconds_are_those_of_steps_and_of_images_that_are_evaluated() -> None:
    pace = Pace(step_seconds=2.0, first_step_seconds=7.0, evaluate_seconds=0.1, num_train=1000, num_val=10, num_test=20)
    config = replace(CONFIG, train=replace(CONFIG.train, epochs=10, batch_size=100), scale=0.5)
    assert config.length.every_epochs == 2  # so 5 epochs have 3 points
    whole = 5 * 10 * 2.0 + (3 * 10 + 20) * 0.1
    assert pace.seconds(config) == pytest.approx(START_SECONDS + 7 + whole)
    half = 25 * 2.0 + (2 * 10 + 20) * 0.1
    assert pace.seconds(config, steps_done=25) == pytest.approx(START_SECONDS + 7 + half)
    last_evaluation = (10 + 20) * 0.1  # of which nothing was saved
    assert pace.seconds(config, steps_done=50) == pytest.approx(START_SECONDS + 7 + last_evaluation)
    watched = replace(config, evaluate=replace(config.evaluate, test_curve=True))
    assert pace.seconds(watched) == pytest.approx(START_SECONDS + 7 + 5 * 10 * 2.0 + 3 * 30 * 0.1)


def test_a_measured_pace_is_near_that_of_the_run(record: RunRecord) -> None:
    with own_time():
        measured, ran = measured_pace(Workload(CONFIG)), pace_of(record)
    assert 0.2 < measured.step_seconds / ran.step_seconds < 5  # on a machine that does other work
    assert (measured.num_val, measured.num_test) == (144, 359)


def test_a_forecast_holds_for_the_shape_and_hardware_and_an_estimate_beyond(record: RunRecord, tmp_path: Path) -> None:
    forecast = Forecast()
    again = replace(CONFIG, seed=5, optim=replace(CONFIG.optim, lr=0.5), train=replace(CONFIG.train, epochs=12))
    assert forecast.estimate(task(again, tmp_path)) is None
    forecast.learn_from(replace(record, hardware={**record.hardware, "processor": "another"}))
    assert forecast.seconds(task(again, tmp_path)) is None
    forecast.learn_from(record)
    assert forecast.seconds(task(again, tmp_path)) == pytest.approx(pace_of(record).seconds(again))
    wide = replace(CONFIG, model=replace(CONFIG.model, embed_dim=64, depth=4))
    assert forecast.seconds(task(wide, tmp_path)) is None
    estimate, known = forecast.estimate(task(wide, tmp_path)), forecast.estimate(task(CONFIG, tmp_path))
    assert estimate is not None
    assert known is not None
    assert estimate > known
    large = replace(CONFIG, train=replace(CONFIG.train, batch_size=CONFIG.train.batch_size * 4))
    pace = pace_of(record)
    more = replace(pace, step_seconds=4 * pace.step_seconds)  # to measure an image costs the same
    assert forecast.estimate(task(large, tmp_path)) == pytest.approx(more.seconds(large))
    threads = replace(CONFIG, device=replace(CONFIG.device, num_threads=2))
    assert forecast.seconds(task(threads, tmp_path)) is None


def test_an_interrupted_run_tells_the_pace_only_where_no_other_does(record: RunRecord, tmp_path: Path) -> None:
    """Its speed has the time of another compilation in it."""
    resumed = replace(record, images_per_second=record.images_per_second / 2, resumed_at_steps=[3])
    for records, last in (([record, resumed], record), ([resumed, record], record), ([resumed], resumed)):
        forecast = Forecast()
        for each in records:
            forecast.learn_from(each)
        assert forecast.seconds(task(CONFIG, tmp_path)) == pytest.approx(pace_of(last).seconds(CONFIG))


def test_what_costs_time_makes_another_shape() -> None:
    plain = shape(CONFIG)
    for changes in ({"ema_decay": 0.9}, {"loss": "bce"}, {"batch_size": 100}):
        assert shape(replace(CONFIG, train=replace(CONFIG.train, **changes))) != plain
    assert shape(replace(CONFIG, seed=5)) == plain
    fused, apart = (
        replace(CONFIG, optim=replace(CONFIG.optim, optimizer="muon", muon_qkv=word)) for word in ("fused", "apart")
    )
    assert len({plain, shape(fused), shape(apart)}) == 3
