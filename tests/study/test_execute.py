"""A study of tiny runs: finished ones are kept, broken ones do not stop the rest, another run's record is refused."""

import io
import itertools
import json
import os
import re
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image
from rich.console import Console

from smallvit import cli
from smallvit.bench.pace import Pace
from smallvit.data.config import DataConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.record import RunRecord
from smallvit.stop import InterruptedRunError
from smallvit.study.execute import Ending, Execution, run_study
from smallvit.study.job import Order
from smallvit.study.process import Outcome
from smallvit.study.rows import Row, Study
from smallvit.study.show import View
from smallvit.study.studies import STUDIES
from smallvit.study.tasks import read_records
from smallvit.train.config import OptimConfig
from study_records import fake_record
from tiny_study import BASE, ONE_THREAD, Here, HereEngine, study

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs here are done when they are first asked after."""
    monkeypatch.setattr("smallvit.study.execute.POLL_SECONDS", 0.0)


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at no drawing of a study's page."""
    monkeypatch.setattr("smallvit.report.study_page.drawings", lambda numbers: [])


def execute(study: Study, folder: Path, engine: HereEngine | None = None, budget: float | None = None) -> Ending:
    return run_study(study, folder, engine or HereEngine(), QUIET, use=ONE_THREAD, budget_seconds=budget)


def test_what_is_finished_is_kept_and_the_rest_is_run(tmp_path: Path) -> None:
    assert execute(study(), tmp_path) == Ending(finished=4)
    paths = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed*/record.json")}
    assert len(paths) == 4
    (gone := tmp_path / "erase" / "seed1" / "record.json").unlink()
    (flat := tmp_path / "plain" / "seed0" / "record.json").rename(tmp_path / "plain" / "seed0.json")
    assert execute(study(), tmp_path) == Ending(finished=1)
    assert {path for path in paths if not path.exists() or path.stat().st_mtime_ns != paths[path]} == {gone, flat}
    records = read_records(study(), tmp_path)
    assert [[record.config["seed"] for _, record in runs] for runs in records.values()] == [[0, 1], [0, 1]]


@pytest.mark.parametrize(("device", "budget", "learnt"), [("cpu", None, 1), ("cuda", None, 0), ("cuda", 60.0, 1)])
def test_a_gpus_runs_tell_how_long_others_take_only_where_a_budget_asks(
    device: Literal["cpu", "cuda"], budget: float | None, learnt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To know the GPU's name opens it in the study's process."""
    records: list[RunRecord] = []
    monkeypatch.setattr("smallvit.study.forecast.Forecast.learn_from", lambda _, record: records.append(record))
    record = fake_record(BASE.resolve(10), 60.0)
    record = replace(record, choices=replace(record.choices, device=device))
    Execution([], [record], HereEngine(), View(QUIET), budget)
    assert len(records) == learnt


def test_without_a_budget_a_seed_of_every_row_comes_before_the_next(tmp_path: Path) -> None:
    engine = HereEngine(lambda order: Outcome(status=1, line="no"))
    rows = tuple(replace(row, rank=1 - number) for number, row in enumerate(study().rows))
    execute(replace(study(), rows=rows), tmp_path, engine)
    assert folders(engine) == ["plain/seed0", "erase/seed0", "plain/seed1", "erase/seed1"]


def folders(engine: HereEngine, do: str = "run") -> list[str]:
    return ["/".join(Path(order.folder).parts[-2:]) for order in engine.orders if order.do == do]


def test_a_failed_run_is_reported_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    broken = replace(BASE, recipe="erase", optim=OptimConfig(lr=1e15, warmup_epochs=0.0))
    ending = execute(study(erase=broken), tmp_path)
    assert [line.split(":")[0] for line in ending.failed] == ["erase row, seed 0", "erase row, seed 1"]
    assert all("try a lower optim.lr" in line for line in ending.failed)
    assert (ending.finished, ending.left, ending.exit_status) == (2, [], 0)
    assert [len(runs) for runs in read_records(study(erase=broken), tmp_path).values()] == [2, 0]


def test_a_run_that_cannot_be_started_has_failed_and_the_rest_go_on(tmp_path: Path) -> None:
    (tmp_path / "erase").write_text("a file where the row's folder is to be")
    engine = HereEngine()
    begin = engine.start

    def start(order: Order, log: Path) -> Here:
        log.parent.mkdir(parents=True, exist_ok=True)
        return begin(order, log)

    engine.start = start
    ending = execute(study(), tmp_path, engine)
    where = tmp_path / "erase"
    assert ending.failed == [f"erase row, seed {seed}: {where}: File exists" for seed in (0, 1)]
    assert (ending.finished, ending.left) == (2, [])


@pytest.mark.parametrize("requeues", [0, 1, 3])
def test_a_run_that_was_ended_elsewhere_is_begun_again_as_often_as_the_engine_says(
    requeues: int, tmp_path: Path
) -> None:
    """By a scheduler's SIGTERM to its processes, say, before it needs the node for others."""
    preemptions = iter(range(2))

    def preempted(order: Order) -> Outcome | None:
        first = order.folder.endswith("plain/seed0") and next(preemptions, None) is not None
        return Outcome(status=143, line="SIGTERM: saved after step 1 of 9") if first else None

    engine = HereEngine(preempted)
    engine.requeues = requeues
    console = Console(record=True, width=300, file=io.StringIO())
    ending = run_study(study(), tmp_path, engine, console, use=ONE_THREAD)
    again = min(requeues, 2)
    assert console.export_text().count("seed 0: SIGTERM: saved after step 1 of 9; it is begun again") == again
    assert folders(engine)[: 2 + again] == ["plain/seed0"] * (1 + again) + ["erase/seed0"]
    failed = [] if requeues > 1 else ["plain row, seed 0: SIGTERM: saved after step 1 of 9"]
    assert (ending.finished, ending.failed, ending.left) == (4 - len(failed), failed, [])


def test_a_job_that_is_refused_while_others_run_is_submitted_when_one_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on a user's jobs is no fault of the run; and a job counts for some time after it has ended."""
    monkeypatch.setattr("smallvit.study.refusals.RETRY_SECONDS", 0.01)

    class Limited(HereEngine):
        counted, lag = 0, 0

        def slots(self) -> int:
            return 9

        def start(self, order: Order, log: Path) -> Here:
            if self.counted == 2:
                self.lag += 1
                self.counted -= self.lag % 3 == 0
                raise SmallvitError(LIMIT)
            self.counted += 1
            return super().start(order, log)

    engine = Limited()
    console = Console(record=True, width=300, file=io.StringIO())
    assert run_study(study(), tmp_path, engine, console, use=ONE_THREAD) == Ending(finished=4)
    assert folders(engine) == ["plain/seed0", "erase/seed0", "plain/seed1", "erase/seed1"]
    assert engine.lag == 6, "the first two had ended before the third was taken"
    assert console.export_text().count(f"{LIMIT}; it is tried again") == 1


LIMIT = "a job cannot be submitted: QOSMaxSubmitJobPerUserLimit"


def test_a_job_that_cannot_be_submitted_has_failed_and_the_rest_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smallvit.study.refusals.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("smallvit.study.refusals.REFUSED_SECONDS", 0.05)
    engine = HereEngine()
    begin = engine.start

    def start(order: Order, log: Path) -> Here:
        if order.folder.endswith("erase/seed0"):
            raise SmallvitError(LIMIT)
        return begin(order, log)

    engine.start = start
    ending = execute(study(), tmp_path, engine)
    assert ending.failed == [f"erase row, seed 0: {LIMIT}"]
    assert (ending.finished, ending.left) == (3, [])


def test_each_job_has_its_time_to_be_submitted_after_one_had_it_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that is away for longer than one job is waited for costs one run, and not all of them."""
    monkeypatch.setattr("smallvit.study.refusals.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("smallvit.study.refusals.REFUSED_SECONDS", 0.05)
    engine, refused = HereEngine(), set[str]()
    begin = engine.start

    def start(order: Order, log: Path) -> Here:
        if order.folder.endswith("plain/seed0") or order.folder not in refused:
            refused.add(order.folder)
            raise SmallvitError(LIMIT)
        return begin(order, log)

    engine.start = start
    ending = execute(study(), tmp_path, engine)
    assert ending.failed == [f"plain row, seed 0: {LIMIT}"]
    assert len(refused) == 4
    assert (ending.finished, ending.left) == (3, [])


def test_a_signal_that_ends_what_submits_leaves_the_run_for_the_next_time(tmp_path: Path) -> None:
    """As Ctrl-C ends sbatch with the study."""
    engine = HereEngine()

    def start(order: Order, log: Path) -> Here:
        os.kill(os.getpid(), signal.SIGINT)
        raise SmallvitError("a job cannot be submitted: sbatch does not say why")

    engine.start = start
    ending = execute(study(), tmp_path, engine)
    assert (ending.failed, len(ending.left), ending.exit_status) == ([], 4, 130)


def test_a_second_signal_while_a_job_is_submitted_is_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smallvit.stop.ONE_SIGNAL_SECONDS", 0.05)
    engine = HereEngine()

    def start(order: Order, log: Path) -> Here:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)  # sooner they are one
        raise AssertionError("the second one was survived")

    engine.start = start
    with pytest.raises(InterruptedRunError, match="SIGTERM again"):
        execute(study(), tmp_path, engine)


def test_checkpoints_of_a_run_that_was_ended_with_its_record_written_are_deleted(tmp_path: Path) -> None:
    checkpoints = tmp_path / "plain" / "seed0" / "checkpoints" / "step-00000006"

    def ended_late(order: Order) -> Outcome:
        outcome = HereEngine().really(order)
        if order.folder.endswith("plain/seed0"):
            checkpoints.mkdir(parents=True)
            return Outcome(status=-9, line="ended by SIGKILL")
        return outcome

    assert execute(study(), tmp_path, HereEngine(ended_late)) == Ending(finished=4)
    assert not checkpoints.parent.exists()


def test_a_record_of_another_run_is_refused_before_anything_runs(tmp_path: Path) -> None:
    execute(replace(study(), seeds=(0,)), tmp_path)
    other = study(erase=replace(BASE, recipe="erase"))
    said = (
        r"another run than tiny's: augment\.horizontal_flip is 0\.5, not 0\.0; .*; name another --out, or delete that"
    )
    with pytest.raises(SmallvitError, match=said):
        execute(other, tmp_path)
    assert not (tmp_path / "plain" / "seed1").exists()
    (tmp_path / "erase" / "seed0" / "record.json").unlink()  # nor one that was begun
    with pytest.raises(SmallvitError, match=r"erase/seed0/config\.json is of " + said):
        execute(other, tmp_path)
    assert not (tmp_path / "plain" / "seed1").exists()


def test_a_study_of_ones_own_pictures_is_of_one_folder(tmp_path: Path) -> None:
    for folder, name, number in itertools.product(("mine", "yours"), "ab", range(20)):
        path = tmp_path / folder / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * number, 255 * (name == "a"), 100 * (folder == "mine"))).save(path)
    small = replace(BASE, train=replace(BASE.train, batch_size=8))
    tiny = replace(study(plain=small), seeds=(0,))
    tiny = replace(tiny, rows=tiny.rows[:1])
    assert execute(tiny.on("folder", tmp_path / "mine"), tmp_path / "runs").finished == 1
    record = RunRecord.load(tmp_path / "runs" / "plain-folder" / "seed0" / "record.json")
    assert (record.class_names, record.test.count) == (["a", "b"], 8)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    assert execute(tiny.on("folder", tmp_path / "link"), tmp_path / "runs").finished == 0
    said = f"another run than tiny-folder's: data.root is {tmp_path / 'mine'}, not {tmp_path / 'yours'}"
    with pytest.raises(SmallvitError, match=said):
        execute(tiny.on("folder", tmp_path / "yours"), tmp_path / "runs")


@pytest.mark.usefixtures("nothing_drawn")
@pytest.mark.parametrize(("images", "field", "value"), [("test", "test_sha256", "0" * 64), ("train", "num_train", 7)])
def test_a_run_on_other_images_has_failed_and_the_study_ends(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    images: str,
    field: str,
    value: Any,
) -> None:
    """As where a folder of pictures is changed between two starts; of a third one nothing is run."""
    execute(replace(study(), seeds=(0,)), tmp_path)

    def changed(order: Order) -> Outcome:
        outcome, path = HereEngine().really(order), Path(order.folder) / "record.json"
        replace(RunRecord.load(path), **{field: value}).save(path)
        return outcome

    engine = HereEngine(changed)
    monkeypatch.setitem(STUDIES, "augmentation", study)
    monkeypatch.setattr("smallvit.study.engines.local.LocalEngine", lambda jobs, use_gpus: engine)
    words = ["study", "augmentation", "--out", str(tmp_path)]
    assert cli.main(words) == 1
    said = (
        f"its {images} images are not those of the runs before: put the pictures back as they were and delete "
        f"{tmp_path}/plain/seed1, or, if they are unchanged (an earlier smallvit drew them otherwise), "
        "name another --out"
    )
    failed = f"(1 of the runs failed, the first: plain row, seed 1: {said})"
    assert capsys.readouterr().err == f"smallvit: the pictures have changed: 1 run is left {failed}\n"
    assert folders(engine) == ["plain/seed1"]
    if images == "test":
        assert cli.main(words) == 1
        assert "have different test sets: the digests of their images and labels differ" in capsys.readouterr().err
        assert folders(engine) == ["plain/seed1"]


def test_a_study_ends_with_its_own_line_where_no_table_can_be_made_of_what_a_failed_run_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoilt(order: Order) -> Outcome:
        outcome = HereEngine().really(order)
        (Path(order.folder) / "record.json").write_text("{")
        return outcome

    monkeypatch.setitem(STUDIES, "augmentation", study)
    monkeypatch.setattr("smallvit.study.engines.local.LocalEngine", lambda jobs, use_gpus: HereEngine(spoilt))
    words = ["study", "augmentation", "--out", str(tmp_path), "--device.device", "cpu", "--seeds", "1"]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("smallvit: 2 of the runs failed, the first: plain row, seed 0: ")
    assert "record.json is not a readable record" in said


@pytest.mark.usefixtures("nothing_drawn")
def test_a_reader_that_left_keeps_no_study_from_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(study(), tmp_path)
    monkeypatch.setitem(STUDIES, "augmentation", study)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as unread:
        monkeypatch.setattr("sys.stdout", unread)
        monkeypatch.setattr("smallvit.study.show.View.begin", lambda *_: None)  # the reader leaves after its line
        assert cli.main(["study", "augmentation", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report" / "index.html").exists()


def test_a_record_that_a_network_disk_shows_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "plain" / "seed0" / "record.json"

    def late(order: Order) -> Outcome:
        outcome = HereEngine().really(order)
        record.rename(record.with_suffix(".late"))
        return outcome

    def sleep(seconds: float) -> None:
        if record.with_suffix(".late").exists():
            record.with_suffix(".late").rename(record)

    monkeypatch.setattr("smallvit.study.execute.time.sleep", sleep)
    one = replace(study(), seeds=(0,), rows=study().rows[:1])
    assert execute(one, tmp_path, HereEngine(late)) == Ending(finished=1)


def test_a_run_without_a_readable_record_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallvit.study.finished.SEEN_SECONDS", 0.0)
    engine = HereEngine(lambda order: Outcome(status=0, line="finished"))
    ending = execute(replace(study(), seeds=(0,)), tmp_path, engine)
    assert ending.finished == 0
    assert all("record.json is not a readable record" in line for line in ending.failed)


PACE = Pace(step_seconds=1.0, first_step_seconds=0.0, evaluate_seconds=0.0, num_train=1295, num_val=143, num_test=359)
"""6 steps an epoch, so 6 s, and what it takes to start."""


def ranked() -> Study:
    """Rows of 6, 60, 6 and 6 s; the last two are of one shape and tell the most."""
    long = replace(BASE, recipe="long", train=replace(BASE.train, epochs=10))
    other = replace(BASE, recipe="other", model=replace(BASE.model, embed_dim=16))
    twin = replace(other, recipe="twin", optim=replace(BASE.optim, lr=1e-4))
    rows = [(BASE, 1), (long, 1), (other, 0), (twin, 0)]
    named = replace(study(), reference="plain")
    return replace(named, rows=tuple(Row(label=row.recipe, config=row, rank=rank) for row, rank in rows))


def answer(order: Order) -> Outcome:
    if order.do == "pace":
        return Outcome(status=0, line=json.dumps(asdict(PACE)))
    return Outcome(status=1, line="not really run")


def test_a_budget_takes_the_most_telling_runs_that_fit_and_measures_each_shape_once(tmp_path: Path) -> None:
    engine = HereEngine(answer)
    began = time.time()
    ending = execute(ranked(), tmp_path, engine, budget=40.0)
    assert folders(engine, "pace") == ["other/seed0", "plain/seed0"]  # the long run has the shape of the plain one
    assert folders(engine) == [
        *("other/seed0", "twin/seed0", "other/seed1", "twin/seed1"),
        *("plain/seed0", "plain/seed1"),
    ]
    assert [str(task) for task in ending.left] == ["long, seed 0", "long, seed 1"]
    assert (ending.reason, ending.exit_status) == ("the budget is spent", 1), "some failed"
    for order in engine.orders:
        assert (order.until is None) == (order.do == "pace")
        assert order.until is None or abs(order.until - (began + 40 - 5.0)) < 5


def ranked_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command that runs the study `ranked` in `folder`, with `answer` in the jobs' place."""
    monkeypatch.setitem(STUDIES, "augmentation", ranked)
    monkeypatch.setattr("smallvit.study.engines.local.LocalEngine", lambda jobs, use_gpus: HereEngine(answer))
    return ["study", "augmentation", "--out", str(folder), "--device.device", "cpu", "--device.num-threads", "1"]


def test_a_budget_that_was_worth_something_is_to_be_given_again(tmp_path: Path) -> None:
    endless = replace(BASE, recipe="erase", train=replace(BASE.train, epochs=100_000))
    tiny = replace(study(erase=endless), seeds=(0,))
    ending = execute(tiny, tmp_path, HereEngine(lambda o: answer(o) if o.do == "pace" else None), budget=40.0)
    assert ([str(task) for task in ending.left], ending.finished) == (["erase row, seed 0"], 1)
    assert (ending.reason, ending.exit_status) == ("the budget is spent", 75)


def test_a_budget_that_nothing_fits_is_not_to_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loop that waits for another status than 75 would never end."""
    words = ranked_command(tmp_path, monkeypatch)
    assert cli.main([*words, "--rows", "long", "--budget", "40"]) == 1
    why = r"no run that is left fits the budget, the shortest needs about (\d+) s: 2 runs are left"
    found = re.fullmatch(rf"smallvit: {why}\n", capsys.readouterr().err)
    assert found is not None
    assert 68 <= int(found[1]) < 98  # with what the paces took


def test_a_run_that_the_budget_ended_before_it_began_was_worth_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Deaf()
    job.ask_to_end = lambda: setattr(job, "outcome", Outcome(status=-signal.SIGTERM, line="ended by SIGTERM"))
    monkeypatch.setattr("smallvit.study.waiting.END_SECONDS", 0.0)
    monkeypatch.setattr(HereEngine, "start", lambda self, order, log: job)
    pictures = study(plain=replace(BASE, data=DataConfig(dataset="folder", root=tmp_path / "pictures")))
    one = replace(pictures, rows=pictures.rows[:1], seeds=(0,))
    ending = execute(one, tmp_path / "runs", budget=0.2)
    assert (ending.reason, ending.exit_status) == ("no run that is left fits the budget", 1)


def test_a_budget_knows_the_pace_of_finished_runs_on_this_hardware(tmp_path: Path) -> None:
    execute(replace(study(), seeds=(0,)), tmp_path)
    engine = HereEngine(answer)
    execute(study(), tmp_path, engine, budget=60.0)
    assert (folders(engine, "pace"), folders(engine)) == ([], ["plain/seed1", "erase/seed1"])


def test_a_shape_that_cannot_be_measured_fails_its_rows_alone(tmp_path: Path) -> None:
    def other_crashes(order: Order) -> Outcome:
        crashes = order.do == "pace" and order.config["model"]["embed_dim"] == 16
        return Outcome(status=-11, line="ended by SIGSEGV") if crashes else answer(order)

    engine = HereEngine(other_crashes)
    ending = execute(ranked(), tmp_path, engine, budget=40.0)
    assert folders(engine) == ["plain/seed0", "plain/seed1"]
    assert sum("its pace cannot be measured: ended by SIGSEGV" in line for line in ending.failed) == 4


def test_a_measurement_that_was_ended_elsewhere_is_begun_again(tmp_path: Path) -> None:
    preemptions = iter(range(1))

    def preempted(order: Order) -> Outcome:
        first = order.do == "pace" and next(preemptions, None) is not None
        return Outcome(status=-15, line="ended by SIGTERM") if first else answer(order)

    engine = HereEngine(preempted)
    engine.requeues = 1
    ending = execute(ranked(), tmp_path, engine, budget=40.0)
    assert folders(engine, "pace") == ["other/seed0", "other/seed0", "plain/seed0"]
    assert not any("its pace" in line for line in ending.failed)


def test_of_a_folder_of_images_a_run_tells_the_pace(tmp_path: Path) -> None:
    pictures = study(plain=replace(BASE, data=DataConfig(dataset="folder", root=tmp_path / "pictures")))
    engine = HereEngine(answer)
    execute(pictures, tmp_path / "runs", engine, budget=40.0)
    assert folders(engine, "pace") == ["erase/seed0"]
    assert folders(engine) == ["plain/seed0", "erase/seed0", "plain/seed1", "erase/seed1"]
    assert all(order.until is not None for order in engine.orders if order.do == "run")


def test_a_study_among_its_images_is_refused_before_it_writes(tmp_path: Path) -> None:
    pictures = study(plain=replace(BASE, data=DataConfig(dataset="folder", root=tmp_path)))
    with pytest.raises(UsageError, match=r"--out is .*: it lies among the images of data\.root"):
        execute(pictures, tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["epoch 3 of 100: val 61.20 %", '{"step_seconds": 1.0}', "[]", ""])
def test_a_shape_whose_pace_is_not_what_a_job_printed_fails_its_rows_alone(tmp_path: Path, line: str) -> None:
    def other_prints(order: Order) -> Outcome:
        prints = order.do == "pace" and order.config["model"]["embed_dim"] == 16
        return Outcome(status=0, line=line) if prints else answer(order)

    engine = HereEngine(other_prints)
    ending = execute(ranked(), tmp_path, engine, budget=40.0)
    assert folders(engine) == ["plain/seed0", "plain/seed1"]
    said = f": its pace cannot be measured: its last line is no pace: {line}"
    assert sum(each.endswith(said) for each in ending.failed) == 4


def test_a_run_that_the_budget_ended_is_left_for_the_next_time(tmp_path: Path) -> None:
    ended = Outcome(status=75, line="out of time")
    ending = execute(ranked(), tmp_path, HereEngine(lambda o: ended if o.do == "run" else answer(o)), budget=40.0)
    assert (len(ending.left), ending.failed, ending.exit_status) == (8, [], 75)


def test_a_signal_ends_the_study_and_a_second_one_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = HereEngine(lambda order: os.kill(os.getpid(), signal.SIGTERM) or Outcome(status=143, line="saved"))
    ending = execute(study(), tmp_path, engine)
    assert (len(engine.orders), len(ending.left), ending.reason, ending.exit_status) == (1, 4, "SIGTERM", 143)

    monkeypatch.setattr("smallvit.stop.ONE_SIGNAL_SECONDS", 0.05)

    def twice(order: Order) -> Outcome:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)  # sooner they are one
        raise AssertionError("the second one was survived")

    with pytest.raises(InterruptedRunError, match="SIGINT again") as raised:
        execute(study(), tmp_path, HereEngine(twice))
    assert raised.value.exit_status == 130


@pytest.mark.usefixtures("nothing_drawn")
def test_the_command_runs_and_prints_the_table_of_records_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STUDIES, "augmentation", study)
    monkeypatch.setattr("smallvit.study.engines.local.LocalEngine", lambda jobs, use_gpus: HereEngine())
    words = ["study", "augmentation", "--out", str(tmp_path)]
    device = ["--device.device", "cpu", "--device.num-threads", "1"]
    assert cli.main([*words, *device, "--rows", "plain row", "--seeds", "1"]) == 0
    assert len(list(tmp_path.glob("*/seed*/record.json"))) == 1
    capsys.readouterr()
    assert cli.main([*words, *device]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "tiny: 3 of 4 runs to do, 1 at a time"
    table, page = out[out.index("Tiny. Digits, 1 pass, little.") :].split("page     ")
    assert page == f"{tmp_path / 'report' / 'index.html'}\n"
    assert "plain row" in (tmp_path / "report" / "index.html").read_text()
    accuracies = [100 * RunRecord.load(p).test.accuracy for p in sorted(tmp_path.glob("plain/seed*/record.json"))]
    assert "| plain row | 2 |" in table
    assert f"{sum(accuracies) / 2:.2f}" in table
    assert "| erase row | 2 |" in table
    for path in tmp_path.glob("*/seed*/record.json"):  # as results/runs has them
        path.rename(path.parent.with_name(f"{path.parent.name}.json"))
    assert cli.main([*words, "--table-only"]) == 0
    assert table in capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    for columns, markdown in (("70", False), ("30", True)):
        monkeypatch.setenv("COLUMNS", columns)
        assert cli.main([*words, "--table-only"]) == 0
        shown = re.sub("\x1b.*?m", "", capsys.readouterr().out)
        assert ("| plain row |" in shown) == markdown, "in 30 columns no table has room"
        assert markdown or max(map(len, shown.splitlines())) <= 70
        assert f"{sum(accuracies) / 2:.2f}" in shown
        assert all(heading in shown for heading in ("parameters", "verdict")), "whole"
        assert re.search("1 row against plain row: 1 |No difference from plain row is tested: all seeds differ", shown)


def test_a_run_that_finished_before_it_was_ended_is_finished(tmp_path: Path) -> None:
    def late(order: Order) -> Outcome:
        assert HereEngine().start(order, tmp_path / "log").poll() == Outcome(status=0, line="finished")
        os.kill(os.getpid(), signal.SIGTERM)
        return Outcome(status=143, line="SIGTERM again")

    ending = execute(study(), tmp_path, HereEngine(late))
    assert (ending.finished, ending.failed, len(ending.left)) == (1, [], 3)


def test_the_command_says_what_failed_and_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ranked_command(tmp_path, monkeypatch)
    assert cli.main([*words, "--rows", "other"]) == 1
    assert capsys.readouterr().err == "smallvit: 2 of the runs failed, the first: other, seed 0: not really run\n"
    assert cli.main([*words, "--budget", "40"]) == 1
    assert capsys.readouterr().err == (
        "smallvit: the budget is spent: 2 runs are left; the same command again goes on "
        "(6 of the runs failed, the first: other, seed 0: not really run)\n"
    )


def test_a_scaled_study_lies_beside_the_full_one_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = replace(BASE, recipe="long", train=replace(BASE.train, epochs=4))
    monkeypatch.setitem(STUDIES, "augmentation", lambda: study(plain=long))
    monkeypatch.setattr("smallvit.study.engines.local.LocalEngine", lambda jobs, use_gpus: HereEngine())
    words = ["study", "augmentation", "--out", str(tmp_path), "--scale", "0.5", "--rows", "plain row", "--seeds", "1"]
    words += ["--device.device", "cpu", "--device.num-threads", "1"]
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith("smallvit: --scale is 0.5: ")  # half of the other row's single pass
    monkeypatch.setitem(STUDIES, "augmentation", lambda: replace(study(plain=long), rows=study(plain=long).rows[:1]))
    assert cli.main(words) == 0
    assert "note: every run takes 50 % of its full length" in capsys.readouterr().out
    record = RunRecord.load(tmp_path / "long-scale-0.5" / "seed0" / "record.json")
    assert (record.config["scale"], record.curve[-1].epoch) == (0.5, 2)


def test_rows_differ_from_the_reference_in_the_augmentation_alone() -> None:
    found = STUDIES["augmentation"]()
    reference = next(row for row in found.rows if row.label == found.reference)
    for row in found.rows:
        assert all(text.startswith("augment.") for text in reference.config.differences(row.config))
        assert json.loads(json.dumps(row.config.to_json()))["recipe"].startswith("augment-")
    assert len({row.config.digest() for row in found.rows}) == len(found.rows) == 7


class Deaf:
    """A job that goes on, whatever it is asked, until it is killed."""

    outcome: Outcome | None = None
    asked = False

    def poll(self) -> Outcome | None:
        return self.outcome

    def ask_to_end(self) -> None:
        self.asked = True

    def kill(self) -> None:
        self.outcome = Outcome(status=-9, line="ended by SIGKILL")


@pytest.mark.parametrize(("error", "killed"), [(InterruptedRunError("SIGINT again", 130), True), (OSError("x"), False)])
def test_an_error_of_the_study_lets_its_runs_save(
    error: Exception, killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        raise error

    job = Deaf()
    monkeypatch.setattr("smallvit.study.execute.time.sleep", sleep)
    monkeypatch.setattr(HereEngine, "start", lambda self, order, log: job)
    with pytest.raises(type(error)):
        execute(study(), tmp_path)
    assert (job.asked, job.outcome is not None) == (not killed, killed)


def test_a_run_that_does_not_end_when_asked_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def sleep(seconds: float) -> None:
        nonlocal looked
        looked += 1
        assert looked < 100, "it is waited for without end"
        if looked == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("smallvit.study.running.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("smallvit.study.execute.time.sleep", sleep)
    monkeypatch.setattr(HereEngine, "start", lambda self, order, log: Deaf())
    ending = execute(study(), tmp_path)
    assert (ending.exit_status, len(ending.failed)) == (143, 1)
    assert "ended by SIGKILL" in ending.failed[0]


def test_the_threads_asked_for_go_before_the_engines(tmp_path: Path) -> None:
    engine = HereEngine(lambda order: Outcome(status=1, line="no"))
    engine.threads = 3
    for threads in (2, None):
        run_study(study(), tmp_path, engine, QUIET, use=replace(ONE_THREAD, num_threads=threads))
    assert [order.config["device"]["num_threads"] for order in engine.orders] == [2] * 4 + [3] * 4


def test_of_jobs_at_once_only_one_measures_a_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HereEngine, "slots", lambda self: 2)
    engine = HereEngine(answer)
    execute(ranked(), tmp_path, engine, budget=40.0)
    assert folders(engine, "pace") == ["other/seed0", "plain/seed0"]
