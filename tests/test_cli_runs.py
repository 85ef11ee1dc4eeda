"""Runs through the command line: success, failure, interruption, repetition; in processes where a process matters."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from outcomes import outcome
from smallvit.cli import main
from smallvit.commands.inspect import OF_FEW_IMAGES
from smallvit.recipes import RECIPES
from smallvit.record import RunRecord
from smallvit.report.stats import wilson_interval
from smallvit.stop import InterruptedRunError

TINY = [
    *("train", "quickstart", "--seed", "3"),
    *("--model.patch-size", "16", "--model.embed-dim", "16", "--model.depth", "2", "--model.num-heads", "2"),
    *("--optim.warmup-epochs", "0", "--optim.lr", "0.01", "--train.epochs", "2", "--evaluate.every-epochs", "1"),
    *("--device.device", "cpu", "--device.precision", "float32", "--device.num-threads", "1"),
    *("--device.attention", "bmm"),  # auto measures, and two processes may find different ones fastest
]


def environment(folder: Path, **more: str) -> dict[str, str]:
    places = {"SMALLVIT_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hub")}
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "200", **places, **more}


def smallvit(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smallvit", *words]
    return subprocess.run(
        command, cwd=folder, env=environment(folder, **more), capture_output=True, text=True, check=False, timeout=240
    )


def assert_failed(line: str, *expected: str) -> None:
    assert len(line.splitlines()) == 1
    assert line.startswith("smallvit: ")
    for words in expected:
        assert words in line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The working directory of a finished `train`, and what it printed; the run is in its `run`."""
    folder = tmp_path_factory.mktemp("cli")
    done = smallvit(folder, *TINY, "--out", "run")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_closed_standard_output_is_no_error(tmp_path: Path) -> None:
    for words in ("--version", "--help", "train --help"):
        command = f"{shlex.quote(sys.executable)} -m smallvit {words} >&-"
        done = subprocess.run(command, shell=True, env=environment(tmp_path), stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_closed_standard_error_is_no_error(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do notes go to standard output then, where lines of CSV are."""
    folder, _ = trained
    Image.new("L", (8, 8)).save(folder / "grey.png")
    command = f"{shlex.quote(sys.executable)} -m smallvit predict run grey.png 2>&-"
    done = subprocess.run(command, shell=True, cwd=folder, env=environment(folder), capture_output=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stderr", None)  # as Python has it then
    assert main(["predict", "run", "absent.png"]) == 2
    assert capsys.readouterr().out == ""
    assert sys.stderr is not None
    sys.stderr.close()


def test_lines_of_csv_take_the_place_of_no_picture(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    monkeypatch.chdir(folder)
    Image.new("L", (8, 8)).save(folder / "kept.png")
    before = (folder / "kept.png").read_bytes()
    assert main(["predict", "run", "kept.png", "--out", "kept.png"]) == 2
    said = "--out is 'kept.png': lines of CSV are written, so it must not end as a picture"
    assert said in capsys.readouterr().err
    assert (folder / "kept.png").read_bytes() == before


def test_train_then_evaluate_prints_the_records_accuracy(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, said = trained
    record = RunRecord.load(folder / "run" / "record.json")
    accuracy = f"accuracy {100 * record.test.accuracy:.2f} % ({record.test.correct} of 359)"
    assert f"test {accuracy} after" in said
    assert "run/index.html" in said
    assert main(["evaluate", str(folder / "run")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    plain, calibrated = record.test, record.test_calibrated
    assert calibrated is not None
    nats, error = f"{calibrated.negative_log_likelihood:.4f} nats", f"{100 * calibrated.calibration_error:.2f} %"
    low, high = wilson_interval(plain.correct, plain.count)
    *lines, half, most, nearly_all = out.splitlines()
    assert lines == [
        f"test {accuracy}",
        f"by the draw of the images {100 * low:.2f} to {100 * high:.2f} % (95 % interval)",
        f"negative log likelihood {plain.negative_log_likelihood:.4f} nats",
        f"expected calibration error {100 * plain.calibration_error:.2f} % ({OF_FEW_IMAGES})",
        f"with the temperature fitted on val, as in predict: {nats}, {error}",
    ]
    for least, line in ((0.5, half), (0.8, most), (0.95, nearly_all)):
        right = r"(, [\d.]+ % of them right \(\d+ of \d+\))?"
        assert re.fullmatch(rf"with a probability of at least {least}: [\d.]+ % of the answers{right}", line)


def interrupted(*_: object, **__: object) -> None:
    raise InterruptedRunError("before the training", 130)


def test_a_runs_config_in_a_recipes_place_is_that_of_the_run(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    monkeypatch.setattr("smallvit.run._trained", interrupted)
    assert main(["train", str(folder / "run" / "config.json"), *TINY[-8:], "--out", str(tmp_path / "again")]) == 130
    assert (tmp_path / "again" / "config.json").read_bytes() == (folder / "run" / "config.json").read_bytes()


def test_a_record_that_was_computed_in_another_arithmetic_is_run_again_with_a_note(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    monkeypatch.setattr("smallvit.run._trained", interrupted)
    here = ["--device.device", "cpu", "--device.num-threads", "2", "--device.attention", "sdpa"]
    said = (
        "note: the record was computed with attention bmm (here sdpa), num-threads 1 (here 2): numbers round "
        "otherwise; for the same, begin in another folder (--out) with --device.attention bmm --device.num-threads 1\n"
    )
    for index, (file, options, is_said) in enumerate(
        [("record.json", here, True), ("record.json", TINY[-8:], False), ("config.json", here, False)]
    ):
        assert main(["train", str(folder / "run" / file), *options, "--out", str(tmp_path / str(index))]) == 130
        out = capsys.readouterr().out
        assert (said in out, "was computed" in out) == (is_said, is_said)


def test_the_options_for_a_records_arithmetic_name_what_makes_another_digest(trained: tuple[Path, str]) -> None:
    record = RunRecord.load(trained[0] / "run" / "record.json")
    config = record.run_config()
    config = replace(config, device=replace(config.device, precision="auto"))
    of_auto = replace(record, config=config.to_json(), config_digest=config.digest())
    here = replace(record.choices, precision="bfloat16", compile=True)
    options = "with --device.precision float32 --device.compile off"
    assert (record.other_arithmetic(here) or "").endswith(options)
    assert (of_auto.other_arithmetic(here) or "").endswith(
        f"{options} (a run of another digest, as its precision is named)"
    )
    assert of_auto.other_arithmetic(record.choices) is None
    of_gpu = replace(record, choices=replace(record.choices, device="cuda"))
    assert (of_gpu.other_arithmetic(replace(of_gpu.choices, num_threads=64))) is None
    assert (of_gpu.other_arithmetic(replace(record.choices, num_threads=64)) or "").endswith(
        "with --device.device cuda"
    )


def test_a_finished_run_is_refused_and_untouched(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    monkeypatch.chdir(folder)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "run").iterdir()}
    assert main([*TINY, "--out", "run"]) == 2
    assert_failed(capsys.readouterr().err, "run already holds a finished run", "--out")
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "run").iterdir()}


def test_evaluate_refuses_what_is_no_finished_run(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", str(tmp_path / "empty")]) == 2
    assert_failed(capsys.readouterr().err, "empty holds no run")
    shutil.copytree(folder / "run", tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["evaluate", str(tmp_path / "cut")]) == 1
    assert_failed(capsys.readouterr().err, "cut/model.safetensors does not hold this model's weights")


def test_no_data_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "small", "--data.root", "nowhere"]) == 1
    assert_failed(capsys.readouterr().err, "nowhere")
    started = time.monotonic()
    done = smallvit(tmp_path, "train", "small", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert_failed(done.stderr, "cifar10", "http://127.0.0.1:9", "--data.root", "--data.cache", "HF_ENDPOINT")
    assert time.monotonic() - started < 60
    assert not list(tmp_path.glob("runs/*"))


def test_an_interrupt_ends_in_one_line_and_leaves_nothing_as_if_whole(tmp_path: Path) -> None:
    words = [*TINY, "--train.epochs", "100000", "--out", "run"]
    command, metrics = [sys.executable, "-m", "smallvit", *words], tmp_path / "run" / "metrics.jsonl"
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        # Where the tests run in a shell's background, SIGINT is ignored, and children inherit that.
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=out,
            stderr=err,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            deadline = time.monotonic() + 120
            while not (metrics.exists() and metrics.read_text().count("\n") >= 5):
                assert process.poll() is None, (tmp_path / "err").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
            process.wait()
    said = (tmp_path / "err").read_text()
    saved = re.fullmatch(
        r"smallvit: SIGINT: saved after step ([\d,]+) of 2,000,000; to go on: smallvit train --resume run\n", said
    )
    assert saved, said
    text = metrics.read_text()
    assert text.endswith("\n")
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    left = {".lock", "config.json", "metrics.jsonl", "checkpoints"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == left
    newest = max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert newest == f"step-{int(saved[1].replace(',', '')):08d}"


def test_a_runs_record_in_a_recipes_place_gives_the_run_again_though_nobody_reads_its_output_on(
    trained: tuple[Path, str],
) -> None:
    folder, _ = trained
    command = [sys.executable, "-m", "smallvit", "train", "run/record.json", *TINY[-8:], "--out", "unread"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=pipe, stderr=pipe, text=True) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.readline()
        job.stdout.close()
        assert (job.stderr.read(), job.wait()) == ("", 0)
    assert outcome(folder / "unread") == outcome(folder / "run")
    assert (folder / "unread" / "index.html").exists()


def test_a_huge_rate_is_stopped_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--optim.lr", "1e15", "--out", str(tmp_path / "run")]) == 1
    assert_failed(capsys.readouterr().err, "try a lower optim.lr")
    assert not (tmp_path / "run" / "record.json").exists()


def test_a_compiled_bfloat16_step_is_one_graph_and_trains_to_nearly_the_same_numbers(
    trained: tuple[Path, str],
) -> None:
    """The graph is captured, forward and backward, and run as it is: to generate its C++ takes a core 40 s, and that
    generated code computes the same is a test of the model.
    """
    folder, _ = trained
    code = (
        f"import sys, torch\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from functools import partial\nfrom no_page import draw_no_page\nfrom smallvit.cli import main\n"
        "draw_no_page()\ntorch.compile = partial(torch.compile, backend='aot_eager')\nsys.exit(main())"
    )
    words = [*TINY, "--device.compile", "on", "--device.precision", "bfloat16", "--out", "compiled"]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"attention, compiled$", done.stdout, re.MULTILINE)
    plain, compiled = (RunRecord.load(folder / name / "record.json") for name in ("run", "compiled"))
    assert compiled.choices.compile
    assert compiled.curve[0].train_loss == pytest.approx(plain.curve[0].train_loss, abs=0.05)
    assert compiled.first_step_seconds > plain.first_step_seconds


def test_more_memory_than_there_is_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.mlp-ratio", "1e10", "--device.precision", "float32", "--out", str(tmp_path)]
    assert main(["train", "quickstart", *words]) == 1
    assert_failed(capsys.readouterr().err, "memory ran out (", "smaller batches, images or models need less")


def test_quickstart_replaces_an_earlier_quickstart_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before the training: what is at stake is what it deletes."""

    def quickstart(folder: Path, status: int) -> set[str]:
        assert main(["quickstart", "--out", str(folder)]) == status
        return {path.name for path in folder.iterdir()} - {".lock"}

    monkeypatch.setattr("smallvit.run.Training", interrupted)

    earlier = replace(RECIPES["quickstart"](), seed=7).resolve(10)
    small = RECIPES["small"]()
    longer = replace(earlier, train=replace(earlier.train, epochs=5000))
    old = {**earlier.to_json(), "schema": 1}  # which had neither of these
    old["device"] = {name: value for name, value in old["device"].items() if name not in ("cuda_graphs", "convolution")}
    for name, config in (
        ("earlier", earlier.to_json()),
        ("earlier, of an old schema", old),
        ("longer", longer.to_json()),
        ("small", small.resolve(10).to_json()),
        (
            "of another number of classes",
            replace(small, data=replace(small.data, dataset="cifar100")).resolve(100).to_json(),
        ),
        ("another version's", {"schema": 99, "recipe": "quickstart"}),
    ):
        folder = tmp_path / name
        (folder / "checkpoints" / "step-00000001").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "record.json").write_text("{}")
        (folder / "notes.txt").write_text("mine")
        replaced = name.startswith("earlier")
        kept = {"notes.txt"} if replaced else {"notes.txt", "config.json", "record.json", "checkpoints"}
        assert quickstart(folder, 130 if replaced else 2) == kept
