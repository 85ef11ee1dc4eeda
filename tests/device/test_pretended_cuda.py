"""What runs on a CUDA device keeps its tensors there, and its graphs freeze no value: on a pretended one (see there).

A real one has tests of its own, test_cuda.py, which tell whether what it computes is right, and fast.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from outcomes import outcome
from smallvit.record import RunRecord

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one: test_cuda.py")

TESTS = Path(__file__).parents[1]
PRETEND = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from pretended_cuda import *; pretend()\n"


def on_card(program: str, *arguments: str, cwd: Path | None = None) -> str:
    command = [sys.executable, "-c", PRETEND + program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


MIXED = """
import pytest

here, there = torch.arange(6.0), torch.arange(6.0, device="cuda")
for mixed in (
    lambda: here + there,
    lambda: here[there.long()],
    lambda: there.index_put_((torch.tensor([0, 1]),), here[:2]),
    lambda: torch.nn.Linear(6, 2)(there),
    lambda: torch.nn.Linear(6, 2).cuda()(here),
    lambda: torch.stack([here, there]),
):
    with pytest.raises(RuntimeError, match="same device"):
        mixed()
with pytest.raises(TypeError, match="numpy"):
    there.numpy()
assert torch.equal(here, there.cpu()) and there[torch.tensor([4])].tolist() == [4.0]
assert (there + 1).device == (there + torch.tensor(1.0)).device == there.device
assert torch.nn.functional.one_hot(there.long()).is_cuda and not torch.arange(3).is_cuda

layer = torch.nn.Linear(6, 2)
weight = layer.weight
layer.to("cuda")
assert layer.weight is weight and weight.is_cuda
layer(there).sum().backward()
assert weight.grad.is_cuda
"""


def test_a_pretended_card_mixes_its_tensors_with_a_cpus_no_more_than_cuda_does() -> None:
    on_card(MIXED)


GRAPHS = """
import pytest
from smallvit.train.graphs import Recorded

total = torch.zeros((), device="cuda")
factor = 2.0

def added(value):
    total.add_(factor * value)
    return (total.clone(),)

recorded = Recorded(added)
seen = []
for step in range(5):
    seen.append(recorded(torch.tensor(float(step), device="cuda"))[0].item())
    if step == 3:
        factor = 100.0  # too late: the graph goes on with 2
assert seen == [0.0, 2.0, 6.0, 12.0, 20.0], seen

for unrecordable in (
    lambda value: (value * value.item(),),
    lambda value: (value + torch.tensor([1.0]).to("cuda"),),
    lambda value: (value.cpu(),),
    lambda value: (value[value > 1],),
):
    recorded = Recorded(unrecordable)
    values = torch.arange(1.0, 2.0, device="cuda")
    recorded(values), recorded(values)
    with pytest.raises(RuntimeError, match="capturing"):
        recorded(values)
"""


def test_a_pretended_graph_holds_what_one_of_cuda_does() -> None:
    on_card(GRAPHS)


LOSSES = """
import json
from dataclasses import replace
from smallvit.bench import workload
from smallvit.device.config import DeviceConfig
from smallvit.recipes import RECIPES
from smallvit.study.rows import changed

workload.TRAIN_IMAGES = 128
CASES = {
    **{recipe: (recipe, {}) for recipe in ("baseline", "best", "laptop", "small")},
    "all at once": ("small", {
        "model.num_registers": 1, "model.num_class_attention_blocks": 1, "model.position": "rotary",
        "model.tokenizer": "conv", "model.patch_init": "whiten", "model.mlp_conv": "depthwise",
        "model.pooling": "cls+mean", "model.qk_norm": "rms", "model.locality": "lsa", "model.layer_scale": 0.1,
        "model.latent_dim_q": 5,
    }),
    "shifted patches": ("small", {
        "model.tokenizer": "shifted", "model.position": "sincos", "model.head": "mlp", "model.init": "mimetic",
        "train.loss": "bce", "train.ema_decay": 0.9,
    }),
    "low rank": ("small", {
        "model.latent_dim_q": 8, "model.latent_dim_v": 8, "model.init": "spectral", "optim.optimizer": "lion",
        "train.logit_adjustment": 1.0,
    }),
    "whitened as the paper does": ("small", {
        "model.patch_init": "whiten-paper", "optim.optimizer": "adamw", "augment.policy": "trivialaugment",
        "augment.flip": "alternating",
    }),
    "RandAugment, always mixed": ("small", {
        "augment.policy": "randaugment", "augment.cutmix_alpha": 1.0, "augment.mixup_alpha": 1.0,
        "augment.mix_probability": 1.0, "train.repeats_in_batch": 2, "model.drop_path_rate": 0.3,
    }),
}

def losses(config, precision, **device):
    device = DeviceConfig(**device, precision=precision, attention="bmm", num_threads=1)
    work = workload.Workload(replace(config, device=device))
    return [float(next(work._states).loss) for _ in range(5)]

found = {}
for name, (recipe, change) in CASES.items():
    config = changed(RECIPES[recipe](), change)
    config = replace(
        config,
        model=replace(config.model, embed_dim=32, num_heads=2, depth=1),
        optim=replace(config.optim, warmup_epochs=0.0),
        train=replace(config.train, batch_size=128 if config.model.patch_init == "whiten-paper" else 8),
    )
    precision = "bfloat16" if name == "low rank" else "float32"
    found[name] = [
        losses(config, precision, device="cpu", compile="off"),
        losses(config, precision, device="cuda", cuda_graphs="on"),
    ]
    if name == "small":
        found[name].append(losses(config, precision, device="cuda", cuda_graphs="off"))
print(json.dumps(found))
"""


def test_steps_of_recipes_and_variants_on_the_card_are_the_cpus() -> None:
    for name, (cpu, *card) in json.loads(on_card(LOSSES)).items():
        assert len({*cpu}) == 5, name  # no batch is another's, as a frozen one would be
        for losses in card:
            # Muon's products are padded on a GPU, and a rate that is a tensor is one of float32.
            assert losses == pytest.approx(cpu, rel=1e-4), name


RUNS = """
import json
from no_page import draw_no_page
from smallvit.cli import main
from smallvit.stop import Stop

calls = 0

def asked(self, seconds_needed=0.0):
    global calls
    calls += 1
    if calls == 8:
        self.reason, self.exit_status = "SIGTERM", 143
    return bool(self.reason)

Stop.asked = asked
draw_no_page()
for status, words in json.loads(sys.argv[1]):
    sys.argv = ["smallvit", *words]
    assert main() == status, words
"""
OPTIONS = (
    *("--model.embed-dim", "32", "--model.num-heads", "2", "--model.depth", "1", "--train.batch-size", "256"),
    *("--train.epochs", "3", "--optim.warmup-epochs", "1", "--train.ema-decay", "0.9", "--checkpoint.best"),
    *("--device.precision", "float32", "--device.attention", "bmm", "--device.num-threads", "1"),
)


def test_runs_on_the_card_resume_exactly_and_are_measured_asked_and_forked(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for name in (f"{each}/{index}" for each in ("new", "9", "0") for index in range(8)):
        path = tmp_path / f"pictures/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    pictures = ("--data.dataset", "folder", "--data.root", "pictures", "--train.batch-size", "8")
    commands = [
        (143, ["train", "quickstart", *OPTIONS, "--out", "resumed"]),
        (0, ["train", "--resume", "resumed"]),
        (0, ["train", "quickstart", *OPTIONS, "--out", "whole"]),
        (0, ["evaluate", "whole", "--split", "val", "--out", "answers.csv"]),
        (0, ["predict", "whole", "pictures/9/0.png", "--weights", "best"]),
        (0, ["train", "quickstart", *OPTIONS, *pictures, "--fork", "whole", "--out", "forked"]),
    ]
    printed = on_card(RUNS, json.dumps(commands), cwd=tmp_path)
    assert printed.count("cuda, float32") == 4
    assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole")
    record = RunRecord.load(tmp_path / "whole/record.json")
    assert (record.choices.device, record.hardware["gpu"]) == ("cuda", "pretended")
    answers = (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()
    assert record.val is not None
    assert len(answers) == 1 + record.val.count
    assert "pictures/9/0.png," in printed
    assert len(load_file(tmp_path / "forked/model.safetensors")["head.weight"]) == 3
