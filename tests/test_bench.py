"""The measuring: on a model so small that a turn takes milliseconds."""

import io
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from smallvit import cli
from smallvit.bench import floors, machine, measure, peers, sweep
from smallvit.bench.clock import Timing, take_turns
from smallvit.bench.cost import Cost, cost, show_recipes
from smallvit.bench.measure import measure_recipe
from smallvit.bench.pace import START_SECONDS, num_images
from smallvit.bench.record import BenchRecord, commit
from smallvit.bench.workload import Workload
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.errors import UsageError
from smallvit.model.config import ModelConfig
from smallvit.model.vit import count_macs
from smallvit.recipes import RECIPES
from smallvit.session import Session
from smallvit.strict_json import from_json
from smallvit.train.config import TrainConfig
from tiny_bench import TINY, loss_of, quick_measurements

ROOT = Path(__file__).parents[1]
TINY_WORDS = [
    "--model.patch-size",
    "16",
    "--model.embed-dim",
    "16",
    "--model.depth",
    "2",
    "--model.num-heads",
    "2",
    "--train.batch-size",
    "20",
    "--evaluate.batch-size",
    "30",
    "--device.device",
    "cpu",
    "--device.precision",
    "float32",
    "--device.num-threads",
    "1",
    "--turns",
    "1",
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from quick_measurements(monkeypatch)


def test_the_record_says_what_was_measured_and_its_numbers_agree(tmp_path: Path) -> None:
    record = measure_recipe(TINY, turns=3)
    record.save(tmp_path / "record.json")
    value = json.loads((tmp_path / "record.json").read_text())
    assert (value.pop("kind"), value.pop("schema")) == ("bench", 2)
    assert from_json(BenchRecord, value) == record
    assert RunConfig.from_json(value["config"]).digest() == record.config_digest == TINY.digest()
    assert record.speeds.keys() == {"step", "augmentation", "pipeline", "evaluation"}
    for name, speed in record.speeds.items():
        assert speed.turns == 3
        assert 0 < speed.fastest_seconds <= speed.seconds
        assert speed.images_per_second == pytest.approx((30 if name == "evaluation" else 20) / speed.seconds)
    peak = record.machine.peak_flop_per_second
    assert peak.keys() == {"float32", "bfloat16"}
    assert record.machine.gemm == "64 x 64 x 64"
    for name in ("step", "pipeline"):
        expected = 6 * record.num_macs * record.speeds[name].images_per_second / peak["float32"]
        assert record.utilisation[name] == pytest.approx(expected)
    # A floor's share of the step is the utilisation.
    share = record.floor_seconds["arithmetic"] / record.speeds["step"].seconds
    assert share == pytest.approx(record.utilisation["step"])
    assert record.floor_seconds["bytes"] > 0
    assert record.step_parts.keys() == {"forward", "backward", "optimizer"}
    assert all(seconds > 0 for seconds in record.step_parts.values())
    assert (record.num_parameters, record.choices.device, record.choices.precision) == (17_050, "cpu", "float32")
    assert (record.peers, record.sweep) == ([], [])


def test_a_product_that_would_take_long_is_smaller_and_its_rate_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in bfloat16 on a processor without it, where 256 x 256 x 256 took 46 ms."""
    monkeypatch.setitem(machine.GEMM_SIDE, "cpu", 2048)
    seconds = iter([*[0.1] * 4, 0.002, *[0.1] * 4, 0.046])  # the first ones while the machine is busy
    monkeypatch.setattr(machine, "timed", lambda call, device: (call(), next(seconds))[1])
    rates = machine.MachineRates("cpu")
    assert rates.calls()["bfloat16"]().shape == (512, 512)
    times = {"float32": 0.5, "bfloat16": 0.25, "copy": 1.0}
    found = rates.machine({name: Timing(calls_in_turn=1, turns=(value,)) for name, value in times.items()})
    assert found.gemm == "2048 x 2048 x 2048, in bfloat16 of 512 x 512 x 512"
    assert found.peak_flop_per_second == {"float32": 2**34 / 0.5, "bfloat16": 2**28 / 0.25}


def test_a_steps_operations_are_those_that_torch_counts_in_one() -> None:
    """Torch's counter on the real step, backward included, against 3 x 2 x MACs.

    The patches need no gradient to the pixels, so that one of their three products is not done.
    """
    # What torch's fused attention does on a CPU its counter does not know.
    work = Workload(replace(TINY, device=replace(TINY.device, attention="bmm")))
    with FlopCounterMode(display=False) as counter:
        work.step()
    model = work.session.config.model
    pixels_gradient = 2 * 20 * 4 * (3 * 16 * 16) * 16
    assert counter.get_total_flops() == floors.step_flop(count_macs(model), 20) - pixels_gradient


def test_the_bytes_of_the_baselines_step_by_hand() -> None:
    model = replace(RECIPES["baseline"]().model, num_classes=10)
    found = floors.step_bytes(model, num_parameters=100, batch_size=256, precision="bfloat16")
    assert found == 5 * 2 * 256 * 9 * 65 * (8 * 192 + 384) + 40 * 100


def test_utilisation_is_three_times_two_macs_an_image() -> None:
    assert floors.utilisation(188_000_000, 1000.0, 2.256e12) == pytest.approx(0.5)


def test_contestants_take_turns_after_one_round_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def contestant(name: str, seconds: list[float]) -> Callable[[], None]:
        left = iter(seconds)

        def call() -> None:
            calls.append(name)
            clock[0] += next(left)

        return call

    monkeypatch.setattr("smallvit.device.choose.time.perf_counter", lambda: clock[0])
    found = take_turns({"a": contestant("a", [9.0, 1.0, 5.0, 2.0]), "b": contestant("b", [8.0] * 4)}, "cpu", 3)
    rounds = ["".join(calls[i : i + 2]) for i in range(0, 8, 2)]
    assert rounds[0] == "ab"
    assert set(rounds[1:]) == {"ab", "ba"}
    assert found["a"].turns == pytest.approx((1.0, 5.0, 2.0))
    assert found["a"].seconds == pytest.approx(2.0)


def test_a_short_call_is_repeated_within_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallvit.bench.clock.TURN_SECONDS", 0.2)
    clock, calls = [0.0], []

    def call() -> None:
        calls.append(1)
        clock[0] += 0.04

    monkeypatch.setattr("smallvit.device.choose.time.perf_counter", lambda: clock[0])
    found = take_turns({"a": call}, "cpu", 2)["a"]
    assert (found.calls_in_turn, len(calls)) == (5, 1 + 2 * 5)
    assert found.seconds == pytest.approx(0.04)


def test_the_bare_step_trains_on_one_batch() -> None:
    step = Workload(TINY).step
    before = loss_of(step)
    for _ in range(30):
        step()
    assert loss_of(step) < before
    after = loss_of(step)
    step.parts("cpu")
    assert loss_of(step) != after


@pytest.mark.parametrize("name", ["step", "pipeline"])
def test_what_is_timed_averages_the_weights_where_a_run_does(name: str) -> None:
    work = Workload(replace(TINY, train=replace(TINY.train, ema_decay=0.9)))
    average, seen = work.session.average, []
    for _ in range(3):
        work.contestants()[name]()
        seen.append(average.model.get_parameter("head.weight").detach().clone())
    by_hand = seen[0]
    for step in (1, 2):
        share = step / (step + 9)
        by_hand = share * by_hand + (1 - share) * seen[step]
    torch.testing.assert_close(average.measured.get_parameter("head.weight"), by_hand)
    assert not torch.equal(by_hand, seen[-1])


@pytest.mark.parametrize(("graphs", "calls"), [(False, 0), (True, 2)])
def test_a_graph_is_recorded_before_anything_is_timed(graphs: bool, calls: int) -> None:
    work, called = Workload(TINY), list[int]()
    work.session.graphs = graphs
    work.settle(lambda: called.append(1))
    assert len(called) == calls


@pytest.mark.parametrize("name", ["augmentation", "pipeline"])
def test_augmentation_and_pipeline_draw_a_new_batch_each_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    own = Session.batch
    monkeypatch.setattr(Session, "batch", lambda self, step: steps.append(step) or own(self, step))
    work = Workload(TINY)
    steps.clear()
    for _ in range(3):
        work.contestants()[name]()
    assert steps == [0, 1, 2]


def test_memory_that_was_in_use_for_a_moment_is_seen() -> None:
    """In a process of its own: the most that this one ever had may be more."""
    code = (
        "import torch; from smallvit.bench.clock import PeakMemory; memory = PeakMemory(); "
        "torch.ones(50 * 2**20).sum(); print(memory.read('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100 * 2**20


def test_the_sweep_changes_one_field_at_a_time_and_keeps_to_its_time() -> None:
    said: list[str] = []
    config = replace(
        TINY,
        model=replace(TINY.model, patch_size=4, num_heads=1),
        train=TrainConfig(batch_size=64),
        device=replace(TINY.device, attention="sdpa"),
    )
    record = measure_recipe(config, turns=1, sweep_seconds=0.0, say=said.append)
    assert [(p.field, p.value) for p in record.sweep] == [
        *(("model.embed_dim", width) for width in (96, 192, 384)),
        *(("model.patch_size", patch) for patch in (4, 2)),
        *(("train.batch_size", batch) for batch in (64, 256, 1024)),
    ]
    assert re.search("the sweep would take about .*, and begins nothing after 0 s", "\n".join(said))
    for point in record.sweep:
        if (point.field, point.value) in (("model.patch_size", 4), ("train.batch_size", 64)):
            assert (point.step, point.left_out) == (record.speeds["step"], None)
            assert (point.num_macs, point.num_tokens) == (record.num_macs, 65)
        else:
            assert point.step is None
            assert re.search("it needs about .*, and 0 s are left", point.left_out or "")


def test_points_of_a_sweep_are_measured_where_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"model.embed_dim": (16, 32), "model.patch_size": (8,), "train.batch_size": (10, 5000)}
    monkeypatch.setattr(sweep, "SWEEP", values)
    monkeypatch.setattr(floors, "memory_available", lambda device: 2.0 * floors.memory_needed(TINY.model, 4000, "sdpa"))
    said: list[str] = []
    record = measure_recipe(TINY, turns=1, sweep_seconds=1e6, say=said.append)
    same, wide, patch, batch, large = record.sweep
    assert same.step == record.speeds["step"]
    for point in (wide, patch, batch):
        assert point.step is not None
        peak = record.machine.peak_flop_per_second["float32"]
        expected = 6 * point.num_macs * point.step.images_per_second / peak
        assert point.utilisation == pytest.approx(expected)
    assert wide.num_macs == count_macs(replace(TINY.model, embed_dim=32, num_classes=10))
    assert (patch.num_tokens, batch.batch_size) == (17, 10)
    assert large.step is None
    assert "it may need" in said[-1]


@pytest.mark.parametrize(
    ("model", "attention"),
    [
        (replace(TINY.model, patch_size=4), "bmm"),
        (replace(TINY.model, patch_size=4), "sdpa"),
        (replace(RECIPES["laptop"]().model, patch_init="random"), "sdpa"),
        (replace(RECIPES["best"]().model, patch_init="random", depth=1), "sdpa"),
        (replace(TINY.model, patch_size=4, tokenizer="conv", tokenizer_depth=3), "sdpa"),
        (replace(TINY.model, patch_size=4, tokenizer="shifted"), "sdpa"),
    ],
)
def test_memory_needed_is_about_what_autograd_keeps(model: ModelConfig, attention: Any) -> None:
    work = Workload(replace(TINY, model=model, device=replace(TINY.device, attention=attention)))
    weights = {weight.untyped_storage().data_ptr() for weight in work.session.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = work.step.learner.loss_of(work.step.batch)
    assert loss.requires_grad
    needed = floors.memory_needed(work.session.config.model, 20, attention)
    assert 0.8 * sum(kept.values()) < needed < 2 * sum(kept.values())


@pytest.mark.parametrize("kind", [UsageError, RuntimeError])
def test_a_point_that_the_others_attention_is_not_for_is_left_out(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As found before, or by torch."""

    def refused(config: RunConfig) -> Workload:
        raise kind("device.attention is native: heads are too wide")

    base = measure_recipe(TINY, turns=1, say=lambda text: None)
    monkeypatch.setattr(sweep, "SWEEP", {"model.embed_dim": (16, 32)})
    monkeypatch.setattr(sweep, "Workload", refused)
    said: list[str] = []
    same, wide = sweep.run_sweep(base, sweep.sweep_cases(TINY), 1e6, said.append)
    assert same.step == base.speeds["step"]
    assert (wide.step, wide.left_out) == (None, "device.attention is native: heads are too wide")
    assert said[-1] == "model.embed_dim 32 is left out: device.attention is native: heads are too wide"


def test_a_sweeps_own_point_has_the_arithmetic_of_the_record() -> None:
    config = replace(TINY, data=DataConfig(dataset="cifar100"), train=replace(TINY.train, batch_size=64))
    (own,) = (case for case in sweep.sweep_cases(config) if case.field == "train.batch_size" and case.value == 64)
    assert own.num_macs == count_macs(config.resolve(100).model)


def test_a_sweep_that_is_not_possible_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_measure_one", lambda *arguments: pytest.fail("measured"))
    with pytest.raises(UsageError, match=r"model\.num_heads is 5: it must divide embed_dim, 96"):
        measure_recipe(replace(TINY, model=ModelConfig(embed_dim=100, num_heads=5)), turns=1, sweep_seconds=1.0)


def test_images_of_which_nothing_is_known_are_refused(tmp_path: Path) -> None:
    config = replace(TINY, data=DataConfig(dataset="folder", root=tmp_path))
    with pytest.raises(
        UsageError, match=r"data\.dataset is 'folder': random images stand for those of digits, cifar10"
    ):
        measure_recipe(config, turns=1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_timm_takes_the_same_step(timm: ModuleType, precision: Any) -> None:
    config = replace(TINY, device=replace(TINY.device, precision=precision))
    record = measure_recipe(config, turns=2, against=("timm",))
    (peer,) = record.peers
    assert (peer.name, peer.version, peer.num_parameters) == ("timm", timm.__version__, record.num_parameters)
    assert peer.step.images_per_second == pytest.approx(20 / peer.step.seconds)
    # Each contestant's peak is that of the precision in use.
    peak = record.machine.peak_flop_per_second[precision]
    assert record.floor_seconds["arithmetic"] == pytest.approx(6 * record.num_macs * 20 / peak)


@pytest.mark.parametrize("attention", ["fused attention", "plain products"])
def test_timms_step_trains_its_own_model(timm: ModuleType, attention: str) -> None:
    work = Workload(TINY)
    peer = peers.PeerStep("timm", work, attention)
    model = peer.step.learner.average.model
    attentions = [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")]
    assert attentions == [attention == "fused attention"] * TINY.model.depth
    ours = {name: tensor.clone() for name, tensor in work.session.model.state_dict().items()}
    before = loss_of(peer.step)
    for _ in range(30):
        peer.step()
    assert loss_of(peer.step) < before
    torch.testing.assert_close(work.session.model.state_dict(), ours, rtol=0, atol=0)


def test_of_a_peers_attentions_the_fastest_counts(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(model: torch.nn.Module) -> None:
        model.register_forward_pre_hook(lambda *_: time.sleep(0.05))

    ways = {"waiting": slow, **peers.PEERS["timm"].attentions}
    for names in (["waiting", "plain products"], ["plain products", "waiting"]):
        peer = replace(peers.PEERS["timm"], attentions={name: ways[name] for name in names})
        monkeypatch.setitem(peers.PEERS, "timm", peer)
        assert peers.fastest_step("timm", Workload(TINY)).differs == f"{peer.differs}; by plain products"


def test_a_peer_that_is_not_there_is_said_in_one_line_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = replace(peers.PEERS["vit-pytorch"], module="no_such_module_anywhere")
    monkeypatch.setitem(peers.PEERS, "vit-pytorch", gone)
    said: list[str] = []
    record = measure_recipe(TINY, turns=1, against=("vit-pytorch",), say=said.append)
    how = "pip install -c constraints.txt -e '.[oracle]' in the checkout"
    assert said[1:] == [f"left out: vit-pytorch is not installed; to have it: {how}"]
    assert record.peers == []


def test_vit_pytorch_takes_the_same_step() -> None:
    if missing := peers.why_missing("vit-pytorch"):
        pytest.skip(missing)
    (peer,) = measure_recipe(TINY, turns=1, against=("vit-pytorch",)).peers
    assert peer.step.seconds > 0


@pytest.mark.parametrize(
    ("names", "config", "message"),
    [
        ("tim", TINY, "--against is 'tim': did you mean timm?"),
        ("timm,", TINY, "--against is ''"),
        ("timm", replace(TINY, model=replace(TINY.model, latent_dim_q=4)), "model.latent_dim_q is 4: leave out"),
        ("timm", replace(TINY, model=replace(TINY.model, head="mlp")), "model.head is 'mlp': leave out --against"),
        ("timm", replace(TINY, model=replace(TINY.model, tokenizer="conv")), "model.tokenizer is 'conv': leave out"),
        ("timm", replace(TINY, model=replace(TINY.model, position="rotary")), "model.position is 'rotary': leave out"),
        ("timm", replace(TINY, model=replace(TINY.model, qk_norm="rms")), "model.qk_norm is 'rms': leave out"),
        ("timm", replace(TINY, train=replace(TINY.train, loss="bce")), "train.loss is 'bce': leave out --against"),
        (
            "timm",
            replace(TINY, train=replace(TINY.train, logit_adjustment=1.0)),
            "train.logit_adjustment is 1.0: leave",
        ),
        ("timm", RECIPES["small"](), "optim.optimizer is 'muon': it goes by our modules' names"),
    ],
)
def test_comparisons_that_are_not_possible(names: str, config: RunConfig, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        peers.parse_peers(names, config)
    assert peers.parse_peers("", config) == ()


def test_what_cannot_be_measured_is_refused_before_anything_is() -> None:
    with pytest.raises(UsageError, match="turns is 0: it must be a whole number, at least 1"):
        measure_recipe(TINY, turns=0)
    with pytest.raises(UsageError, match="against is 'tim': did you mean timm"):
        measure_recipe(TINY, turns=1, against=["tim"])


def test_peers_are_named_once() -> None:
    assert peers.parse_peers("timm, vit-pytorch,timm", TINY) == ("timm", "vit-pytorch")


def test_the_command_reads_every_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def record(config: RunConfig, **options: Any) -> BenchRecord:
        asked.update(options, config=config)
        return measure_recipe(TINY, turns=1)

    monkeypatch.setattr("smallvit.bench.measure.measure_recipe", record)
    path = tmp_path / "x.json"
    words = [
        "bench",
        "small",
        "--seed",
        "3",
        "--optim.optimizer",
        "adamw",
        "--against",
        "timm",
        "--sweep",
        "7",
        "--turns",
        "2",
    ]
    assert cli.main([*words, "--json", str(path)]) == 0
    assert asked.pop("config") == replace(
        RECIPES["small"](), seed=3, optim=replace(RECIPES["small"]().optim, optimizer="adamw")
    )
    assert callable(asked.pop("say"))
    assert asked == {"turns": 2, "against": ("timm",), "sweep_seconds": 7.0}
    assert json.loads(path.read_text())["kind"] == "bench"
    assert {f.name for f in fields(cli.Bench)} == {"config", "json", "against", "sweep", "turns"}


def test_the_command_prints_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "SWEEP", {"model.embed_dim": (16,), "model.patch_size": (8,)})
    path = tmp_path / "x.json"
    assert cli.main(["bench", *TINY_WORDS, "--sweep", "120", "--json", str(path)]) == 0
    said, record = capsys.readouterr().out, json.loads(path.read_text())
    assert "baseline: 0.02 M parameters" in said
    for row in ("step, batch 20", "forward", "optimizer", "augmentation", "pipeline", "evaluation", "GEMM bfloat16"):
        assert len(re.findall(rf"^ *{row}", said, re.MULTILINE)) == 1
    assert re.search(r"step, patch 8 \(17 tokens\) +[\d.]", said)
    speed = record["speeds"]["step"]["images_per_second"]
    assert re.search(rf"step, batch 20 +[\d.,]+ +{speed:,.0f} ", said)
    assert f"record {path}" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--turns", "0"], "--turns is 0: it must be a whole number, at least 1"),
        (["--sweep", "-1"], "--sweep is -1.0: it must be a number, at least 0"),
        (["--sweep", "nan"], "--sweep is nan: it must be a number, at least 0"),
        (["--json", "no/such/folder/x.json"], "--json is 'no/such/folder/x.json': its folder must exist"),
        (["--json", "."], "--json is '.': it must be a file, or the name of a new one"),
        (["--json", "/dev/null"], "--json is '/dev/null': it must be a file, or the name of a new one"),
        (["--against", "kornia"], "--against is 'kornia': allowed are timm, vit-pytorch"),
        (["--trns", "1"], "unknown option --trns; did you mean --turns?"),
        (["baselin"], "unknown recipe 'baselin'; did you mean baseline?"),
        (["--data.dataset", "folder", "--data.root", "."], "data.dataset is 'folder': random images stand for"),
    ],
)
def test_bad_usage_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("smallvit: ")
    assert len(err.splitlines()) == 1
    assert message in err


def test_the_commit_is_that_of_this_checkout() -> None:
    found = commit()
    if not (ROOT / ".git").exists():
        assert found is None
        return
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    assert found in (head, f"{head}-dirty")


def test_the_cost_of_a_recipe_is_measured_without_its_data() -> None:
    found = cost(TINY)
    assert found.num_parameters == 17_050
    assert found.num_macs == count_macs(TINY.resolve(10).model)
    assert START_SECONDS < found.seconds < 1e6


def test_each_recipe_is_shown_on_a_terminal_as_soon_as_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    shown: list[str] = []

    def measured(config: RunConfig) -> Cost:
        shown.append(screen.getvalue())
        return Cost(num_parameters=len(shown), num_macs=0, seconds=60.0)

    monkeypatch.setattr("smallvit.bench.cost.cost", measured)
    console = Console(file=screen, width=120, force_terminal=True)
    show_recipes({"one": lambda: TINY, "two": lambda: TINY}, console)
    assert "measuring some training steps of one, recipe 1 of 2" in shown[0]
    assert "0.00 M" not in shown[0]
    assert "0.00 M" in shown[1]
    assert "measuring" not in screen.getvalue()[-300:]


def test_a_measurement_gives_back_the_threads_and_the_generator_that_it_found() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    cost(TINY)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.rand(1), drawn)


def test_a_recipe_that_may_not_fit_into_memory_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = floors.memory_needed(TINY.resolve(10).model, TINY.train.batch_size, "sdpa")
    for share, known in ((2.5, True), (1.5, False)):
        monkeypatch.setattr(floors, "memory_available", lambda device, share=share: share * needed)
        assert (cost(TINY).seconds is not None) == known


def test_a_cost_is_the_whole_runs_by_the_times_of_the_pipeline_and_the_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smallvit.bench.clock.statistics.median", lambda turns: 2.0)
    monkeypatch.setattr("smallvit.bench.pace.timed", lambda call, device: call() or 7.0)
    digits = replace(TINY, data=DataConfig(dataset="digits"), train=TrainConfig(epochs=30, batch_size=50))
    images = num_images(digits)
    assert images is not None
    assert digits.num_steps(images[0]) == 30 * (3 * 1294 // 50)
    assert digits.num_steps(45_000) == 30 * (3 * 45_000 // 50)
    small = replace(digits, train=TrainConfig(epochs=10, passes_per_epoch=1, batch_size=500))
    evaluated = (10 // small.evaluate.every_epochs) * images[1] + images[2]
    assert cost(small).seconds == pytest.approx(START_SECONDS + 7 + 2.0 * 10 * 2 + evaluated * 2.0 / 30)


def test_available_memory_is_what_the_kernel_says() -> None:
    found = floors.memory_available("cpu")
    if not Path("/proc/meminfo").exists():
        assert math.isinf(found)
        return
    assert 0 < found < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_published_figures_are_those_of_their_records() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    value = json.loads((ROOT / "results" / "benchmarks" / "bench-baseline.json").read_text(encoding="utf-8"))
    assert (value.pop("kind"), value.pop("schema")) == ("bench", 1)
    value["choices"]["convolution"] = "torch"  # which that schema did not tell
    record = from_json(BenchRecord, value)
    for name, speed in record.speeds.items():
        share = f"{record.utilisation[name]:.0%}".replace("%", " %") if name in record.utilisation else ""
        assert re.search(rf"{name}.* \| {1e3 * speed.seconds:,.0f} \| {speed.images_per_second:,.0f} \| {share}", page)
    how = {
        "paper-step": ("bfloat16", 2, False),
        "paper-step-compiled": ("bfloat16", 2, True),
        "paper-step-1-thread": ("bfloat16", 1, False),
        "paper-step-float32": ("float32", 2, False),
    }
    for each, wanted in how.items():
        for shape in benchmark(each)["shapes"].values():
            choices = shape["choices"]
            assert choices["attention"] == "native"
            assert (choices["precision"], choices["num_threads"], choices["compile"]) == wanted
            speed, peak = shape["speeds"]["ours"]["images_per_second"], shape["utilisation"][choices["precision"]]
            assert f"| {speed:,.0f}, {shape['ours_over_paper']:.2f} times, {100 * peak:.0f} % of peak |" in page
    for each, attention in (("paper-step-bmm", "bmm"), ("paper-step-sdpa", "sdpa")):
        wide, narrow = benchmark(each)["shapes"].values()
        assert wide["choices"]["attention"] == narrow["choices"]["attention"] == attention
        assert f"{wide['ours_over_paper']:.2f} " in page
        assert f"{narrow['ours_over_paper']:.2f} times" in page


def benchmark(name: str) -> Any:
    return json.loads((ROOT / "results" / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def test_runs_took_what_was_predicted_within_a_fifth() -> None:
    page = " ".join((ROOT / "docs" / "performance.md").read_text(encoding="utf-8").split())
    for record in ("prediction", "prediction-60-s"):
        for name, found in benchmark(record)["recipes"].items():
            assert found["predicted_over_taken"] == pytest.approx(1, abs=0.2), name
            assert f"{found['predicted_over_taken']:.3f} for `{name}`" in page


def test_the_published_first_steps_are_those_of_their_record() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for name, found in benchmark("first-step")["recipes"].items():
        seconds = [found[f"{kind}_seconds"] for kind in ("not_compiled", "compiled_cold", "compiled_warm")]
        assert f"| `{name}` | {' | '.join(f'{value:.2f}' for value in seconds)} |" in page
