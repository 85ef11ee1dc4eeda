"""The command line as a user meets it: help, mistakes of usage, completion; mostly in processes of their own."""

import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import pytest

from smallvit.cli import COMMANDS, SPIN_COUNT, WAITING, main
from smallvit.recipes import RECIPES
from smallvit.source import source_digest

TO_PARSE = {"docstring_parser", "smallvit", "typeguard", "typing_extensions", "tyro"}
"""All that may be imported to parse and to help (typeguard by tyro, where it is): 0.3 s on an idle core."""
BEST = str(Path(__file__).parents[1] / "results" / "weights" / "best" / "record.json")


def smallvit(*words: str, columns: int = 80, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "smallvit", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("words", [["--help"], ["train", "small", "--help"], ["evaluate", "--help"], ["--version"]])
def test_to_parse_and_to_help_little_is_imported(words: list[str]) -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom smallvit.cli import main\n"
        f"try:\n main({words!r})\nexcept SystemExit as stop:\n assert not stop.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules.keys() - before}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout
    assert set(done.stderr.split()) - sys.stdlib_module_names <= TO_PARSE


def test_help_names_the_commands_and_their_fields() -> None:
    listed = smallvit("--help").stdout
    assert smallvit().stdout == listed
    for command in COMMANDS:
        assert f" {command} " in listed
    helped = smallvit("train", "small", "--help", columns=120).stdout
    assert "--optim.lr FLOAT" in helped
    assert "Highest learning rate" in helped
    assert f"(default: {RECIPES['small']().optim.lr})" in helped


@pytest.mark.skipif(sys.platform != "linux", reason="torch has another OpenMP there")
def test_on_a_busy_machine_threads_that_wait_soon_sleep() -> None:
    """By what libgomp says of its settings when torch loads it."""
    environment = {key: value for key, value in os.environ.items() if key not in WAITING}
    code = (
        "import sys\nfrom smallvit import cli\ncli.is_busy = lambda: True\nsys.exit(cli.main(['evaluate', 'nowhere']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in done.stderr
    assert "nowhere" in done.stderr


@pytest.mark.parametrize(
    ("busy", "given"),
    [(False, {}), (True, {"GOMP_SPINCOUNT": "5"}), (True, {"OMP_WAIT_POLICY": "PASSIVE"})],
)
def test_elsewhere_or_told_otherwise_threads_wait_as_they_did(
    busy: bool, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smallvit.cli.is_busy", lambda: busy)
    with patch.dict(os.environ):
        for name in WAITING:
            os.environ.pop(name, None)
        os.environ.update(given)
        assert main(["evaluate", "nowhere"]) == 2
        assert {name: os.environ[name] for name in WAITING & os.environ.keys()} == given


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "small", "--help"]])
def test_output_that_nobody_reads_ends_quietly(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "smallvit", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("CUDA out of memory. Tried to allocate\nx")]
)
def test_memory_that_runs_out_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("smallvit.measured.evaluate", fail)
    assert main(["evaluate", "x"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("smallvit: memory ran out (")
    assert said.count("\n") == 1


def test_another_error_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("smallvit.measured.evaluate", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["evaluate", "x"])


def test_version() -> None:
    done = smallvit("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{version('smallvit')}, source {source_digest()}\n"


USAGE = [
    (["trian"], "unknown command 'trian'; did you mean train?"),
    ([""], "unknown command ''; allowed are"),
    (["--hlep"], "unknown option --hlep; did you mean --help? see smallvit --help"),
    (["--versoin"], "unknown option --versoin; did you mean --version?"),
    (["train"], "train needs a recipe first, one of "),
    (["train", "--out", "x", "small"], "train needs a recipe first, one of "),
    (["train", "smal"], "unknown recipe 'smal'; did you mean small?"),
    (["train", "runs/mine"], "baseline, ddp256, ddp1024, a run's config.json or record.json"),
    (["train", BEST, "more"], "unexpected 'more'; see smallvit train best --help"),
    (["train", BEST, "--optim.lrr", "3"], "unknown option --optim.lrr; did you mean --optim.lr?"),
    (["train", BEST, "--resume", "x"], "--resume goes on with the recipe of its run: leave out '/"),
    (["train", "small", "--optim.lrr", "3"], "unknown option --optim.lrr; did you mean --optim.lr?"),
    (["train", "small", "--optim.lrr=3"], "unknown option --optim.lrr; did you mean --optim.lr?"),
    (["train", "small", "--epochs", "3"], "unknown option --epochs; did you mean --train.epochs? "),
    (["train", "small", "--lr", "3"], "unknown option --lr; did you mean --optim.lr? "),
    (["train", "small", "--cutmix", "3"], "unknown option --cutmix; did you mean --augment.cutmix-alpha? "),
    (["train", "small", "--crop", "3"], "unknown option --crop; did you mean --augment.crop-padding? "),
    (["train", "small", "--dpeth", "3"], "unknown option --dpeth; did you mean --model.depth? "),
    (["train", "small", "--wd", "3"], "unknown option --wd; see smallvit train small --help"),
    (["train", "small", "--recip", "3"], "unknown option --recip; see smallvit train small --help"),
    (["train", "small", "--evaluate.test-curv"], "did you mean --evaluate.test-curve? see smallvit train small --help"),
    (["train", "small", "--optim.lrr", "3", "--model.dept", "1"], "did you mean --optim.lr?"),
    (["train", "small", "more"], "unexpected 'more'; see smallvit train small --help"),
    (
        ["train", "small", "--optim.optimizer", "adamww"],
        "--optim.optimizer is 'adamww'; did you mean adamw? allowed are",
    ),
    (["train", "small", "--device.precision", "float23"], "did you mean float32? allowed are auto, float32, bfloat16"),
    (["train", "small", "--data.dataset", "cifer10"], "data.dataset is 'cifer10': did you mean cifar10?"),
    (["train", "small", "--data.dataset", "a\nb"], r"data.dataset is 'a\nb': allowed are"),
    (["train", "small", "--optim.lr", "fast"], "--optim.lr is 'fast': it must be a number"),
    (["train", "small", "--optim.lr", "inf"], "optim.lr is inf: "),
    (["train", "small", "--optim.lr", "nan"], "optim.lr is nan: "),
    (["train", "small", "--optim.lr"], "--optim.lr needs a value; see smallvit train small --help"),
    (
        ["train", "small", "--augment.affine-scale", "0.9"],
        "--augment.affine-scale needs 2 values; see smallvit train small --help",
    ),
    (["train", "small", "--augment.affine-scale", "1", "x"], "--augment.affine-scale is '1', 'x': it must be two num"),
    (["--version", "x"], "--version has no place there; see smallvit --help"),
    (["--tyro-print-completion", "powershell"], "unknown shell 'powershell'; allowed are bash, zsh, fish"),
    (["--tyro-print-completion"], "unknown shell ''; allowed are bash, zsh, fish"),
    (["train", "small", "--optim.betas", "0.9"], "--optim.betas is '0.9': it must be two numbers or None"),
    (["train", "small", "--optim.betas", "0.9", "b"], "--optim.betas is '0.9', 'b': it must be two numbers or None"),
    (["train", "small", "--optim.betas"], "--optim.betas is empty: it must be two numbers or None"),
    (["train", "small", "--train.epochs", "2.5"], "--train.epochs is '2.5': it must be a whole number"),
    (["train", "small", "--model.latent-dim-q", "x"], "--model.latent-dim-q is 'x': it must be a whole number or None"),
    (["train", "small", "--max-seconds", "x"], "--max-seconds is 'x': it must be a number or None"),
    (["train", "small", "--train.epochs", "0"], "train.epochs is 0: "),
    (["train", "small", "--train.epochs", "1"], "optim.warmup_epochs is 2.0: it must be at most train.epochs, 1"),
    (["train", "small", "--seed", "-1"], "seed is -1: "),
    (["train", "small", "--model.num-heads", "5"], "model.num_heads is 5: it must divide embed_dim, 96"),
    (["train", "quickstart", "--data.root", "x"], "data.root is 'x': it has no use with data.dataset 'digits'"),
    (["train", "small", "--resume", "x"], "--resume goes on with the recipe of its run: leave out 'small'"),
    (["evaluate"], "smallvit evaluate needs RUN (Folder of a finished run); see smallvit evaluate --help"),
    (["evaluate", "x", "--split", "tets"], "--split is 'tets'; did you mean test? allowed are train, val, test"),
    (["evaluate", "x", "--data.rot", "y"], "unknown option --data.rot; did you mean --data.root?"),
    (["evaluate", "x", "y", "z"], "unexpected 'z'; see smallvit evaluate --help"),
    (
        ["evaluate", "x", "y", "--split", "val"],
        "--split is 'val': it is of the run's own data set, and has no place beside y",
    ),
    (
        ["evaluate", "x", "y", "--data.root", "z"],
        "--data.root is 'z': it is of the run's own data set, and has no place beside y",
    ),
    (["study"], "smallvit study needs STUDY (Question to answer: paper, "),
    (["study", "papers"], "unknown study 'papers'; did you mean paper? allowed are paper, "),
    (["study", "paper", "--engine", "rya"], "--engine is 'rya'; did you mean ray? allowed are local, ray, slurm"),
    (["study", "paper", "--data.rot", "x"], "unknown option --data.rot; did you mean --data.root?"),
    (["study", "paper", "--device.precision", "float32"], "unknown option --device.precision; did you mean "),
    (["study", "paper", "--scale", "0"], "--scale is 0.0: a number up to 1000, and of 300 "),
    (["study", "paper", "--scale", "2000"], "--scale is 2000.0: a number up to 1000, "),
    (["study", "paper", "--data.dataset", "folder"], "data.root is None: data.dataset 'folder' needs the folder of "),
    (["study", "paper", "--data.dataset", "cifar11"], "data.dataset is 'cifar11': did you mean cifar10? "),
    (["study", "paper", "--budget", "soon"], "--budget is 'soon': it must be a time above 0, such as 90s, 25m or 2h"),
    (["study", "paper", "--budget", "0m"], "--budget is '0m': "),
    (
        ["study", "paper", "--seeds", "0"],
        "--seeds is '0': it must be how many, at least 1, or different ones with commas: ",
    ),
    (["study", "paper", "--seeds", "1,1"], "--seeds is '1,1': "),
    (["study", "paper", "--seeds", ""], "--seeds is '': "),
    (
        ["study", "paper", "--rows", "baselin"],
        "--rows: paper has no row 'baselin'; did you mean baseline? allowed are ",
    ),
    (["study", "paper", "--rows", ","], "--rows: paper has no row ','; allowed are "),
    (["study", "paper", "--jobs", "0"], "--jobs is 0: it must be a whole number, at least 1"),
    (["study", "paper", "--device.num-threads", "0"], "device.num_threads is 0: "),
    (["study", "paper", "--device.num-threads", "100000"], "device.num_threads is 100000: "),
    (["train", "quickstart", "--out", ""], "after --out a path is empty, which would be this folder"),
    (["train", "quickstart", "--data.root="], "after --data.root a path is empty"),
    (["train", "--resume", ""], "after --resume a path is empty, which would be this folder"),
    (["bench", "--turns", "3", "laptop"], "'laptop' has no place there: a recipe comes first"),
    (["train", "small", "--model.image-size", "10**12"], "--model.image-size is '10**12': it must be a whole number"),
    (["train", "small", "--model.image-size", "1000000000000"], "it must be a whole number, from 1 to 4096"),
    (["train", "small", "--model.depth", "1" + 30 * "0"], "it must be a whole number, at most 1,000,000,000"),
    (["train", "small", "--train.epochs", "1" + 400 * "0"], "it must be a whole number, at most 1,000,000,000"),
    (["predict", "run", ""], "after run a path is empty"),
    (["quickstart", "--sed", "1"], "unknown option --sed; did you mean --seed?"),
    (["bench", "--json=nowhere/bench.json"], "--json is 'nowhere/bench.json': its folder must exist"),
    (["train", "--resume", "a", "--resume=b"], "--resume is given twice: name one run folder"),
    (["train", "--resume=gone.json"], "--resume is 'gone.json': it must be the folder of a run"),
    (["bench", "--tunrs", "3"], "did you mean --turns? see smallvit bench --help"),
    (
        ["study", "paper", "--slurm.partition", "gpu"],
        "--slurm options go with --engine slurm, and this is ",
    ),
    (["study", "paper", "--table-only", "--rows", "baseline"], "prints all rows: leave out --rows and --budget"),
    (["study", "paper", "--table-only", "--budget", "2h"], "prints all rows: leave out --rows and --budget"),
    (["recipes", "all"], "unexpected 'all'; see smallvit recipes --help"),
]


@pytest.mark.parametrize(
    ("words", "expected"), USAGE, ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else ""
)
def test_bad_usage_is_one_line_with_the_nearest_right_name(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30" if len(words) % 2 else "200")
    assert main(words) == 2
    assert_one_line(*capsys.readouterr(), expected)


@pytest.mark.parametrize(
    ("encoding", "words", "expected"), [("utf-8", *USAGE[3]), *(("ascii", *each) for each in USAGE[3::30])]
)
def test_bad_usage_in_a_process_of_its_own(encoding: str, words: list[str], expected: str) -> None:
    """tyro draws its boxes of other characters where the output cannot hold its frames."""
    done = smallvit(*words, encoding=encoding)
    assert done.returncode == 2
    assert_one_line(done.stdout, done.stderr, expected)


def assert_one_line(out: str, err: str, expected: str) -> None:
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("smallvit: ")
    assert expected in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, tmp_path: Path) -> None:
    done = smallvit("--tyro-print-completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("quickstart", "evaluate", "optim.lr"):
        assert word in done.stdout
    assert ("--repeats" in done.stdout, done.stdout.count("'--fork'")) == (False, 1), (
        "train's own, and fields no option"
    )
    program = shutil.which(shell)
    if program is None:
        return
    (tmp_path / "script").write_text(done.stdout)
    subprocess.run([program, "-n", tmp_path / "script"], check=True, timeout=60)  # it parses


def test_an_interrupt_while_it_is_still_imported_ends_it_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    done = subprocess.run(
        [sys.executable, "-m", "smallvit", "--version"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
