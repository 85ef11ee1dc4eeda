"""How much faster than the paper's training step is ours? Both in one process, in turns.

    python benchmarks/paper_step.py [--threads N] [--turns 5] [--batch-size 256] [--device DEVICE] [--json FILE]

The paper's step is restated from the facts about its code: separate linears for q, k and v, torch's stock
scaled_dot_product_attention, stochastic depth, float32, eager, AdamW one tensor at a time. Ours is what `smallvit train
baseline` would take here, `auto` choices included. Both start from the same weights and take the same fixed batch,
width 192 with one CLS token and width 96 with two, twelve heads each.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smallvit.bench.clock import take_turns
from smallvit.bench.floors import utilisation
from smallvit.bench.machine import MachineRates
from smallvit.bench.record import Speed, circumstances
from smallvit.bench.workload import TrainingStep, Workload
from smallvit.config import RunConfig
from smallvit.device.choose import timed
from smallvit.device.config import DeviceConfig
from smallvit.files import write_json
from smallvit.model.config import ModelConfig
from smallvit.model.vit import count_macs
from smallvit.recipes import baseline
from smallvit.strict_json import to_json
from smallvit.train.average import WeightAverage
from smallvit.train.config import OptimConfig
from smallvit.train.loop import Learner

SHAPES = {
    "width 192, 12 heads, 1 CLS token": {"embed_dim": 192, "num_cls_tokens": 1},
    "width 96, 12 heads, 2 CLS tokens": {"embed_dim": 96, "num_cls_tokens": 2},
}


class PaperBlock(nn.Module):
    """Pre-norm attention and MLP, written as plainly as the method says it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, scale: Tensor | None) -> Tensor:
        """Return tokens [B, N, D]; `scale` [2, B] is 0 where an image skips a branch."""
        branches = (self.attention, self.mlp)
        for which, branch in enumerate(branches):
            change = branch(tokens)
            tokens = tokens + (change if scale is None else change * scale[which].view(-1, 1, 1))
        return tokens

    def attention(self, tokens: Tensor) -> Tensor:
        """Return what attention adds."""
        normed = self.norm1(tokens)
        batch, count, width = normed.shape
        q, k, v = (
            linear(normed).reshape(batch, count, self.heads, width // self.heads).transpose(1, 2)
            for linear in (self.q, self.k, self.v)
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width))

    def mlp(self, tokens: Tensor) -> Tensor:
        """Return what the MLP adds."""
        return self.fc2(F.gelu(self.fc1(self.norm2(tokens))))


class PaperTransformer(nn.Module):
    """The paper's model: patches by a convolution, CLS tokens, learned positions, their outputs side by side."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, tokens = config.embed_dim, config.num_cls_tokens
        self.patches = nn.Conv2d(3, width, config.patch_size, config.patch_size)
        self.cls = nn.Parameter(torch.zeros(1, tokens, width))
        self.positions = nn.Parameter(torch.zeros(1, tokens + config.num_patches, width))
        hidden = round(config.mlp_ratio * width)
        self.blocks = nn.ModuleList(PaperBlock(width, config.num_heads, hidden) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width * tokens, config.num_classes or 0)

    def forward(self, images: Tensor, scale: Tensor | None) -> Tensor:
        """Return the logits of normalised images; `scale` [L, 2, B] as in the blocks."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(images), -1, -1), patches], dim=1) + self.positions
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, None if scale is None else scale[index])
        return self.head(self.norm(tokens)[:, : self.cls.shape[1]].flatten(1))


def paper_weights(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our model's weights under the restatement's names, q, k and v apart."""
    names = {"patch_embed.proj.": "patches.", "cls_token": "cls", "pos_embed": "positions"}
    names |= {".attn.proj.": ".proj.", ".mlp.": "."}
    found: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace("attn.qkv", part)] = piece.clone()
        else:
            found[name] = tensor.clone()
    return found


def paper_step(work: Workload) -> tuple[PaperTransformer, TrainingStep]:
    """Return the restated model with our weights, and its training step on our batch."""
    session = work.session
    model = PaperTransformer(session.config.model).to(work.device)
    model.load_state_dict(paper_weights(session.model.state_dict()))
    optim: OptimConfig = session.config.optim
    adamw = torch.optim.AdamW(
        model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=False, foreach=False
    )

    def loss(images: Tensor, targets: Tensor, scale: Tensor | None) -> Tensor:
        return F.cross_entropy(model(images, scale), targets)

    return model, TrainingStep(Learner(loss, [adamw], WeightAverage(model, 0.0)), work.step.batch)


def compare(config: RunConfig, turns: int) -> dict[str, object]:
    """Return the speeds of both steps, their ratio, and our share of the machine's peak."""
    work = Workload(config)
    device, batch = work.device, config.train.batch_size
    _, paper = paper_step(work)
    with torch.no_grad():
        losses = [float(step.learner.loss_of(step.batch)) for step in (paper, work.step)]
    first = timed(work.step, device)
    timed(paper, device)
    rates = MachineRates(device)
    timings = take_turns({"paper": paper, "ours": work.step, **rates.calls()}, device, turns)
    speeds = {name: Speed.of(timings[name], batch) for name in ("paper", "ours")}
    choices, machine = work.session.choices, rates.machine(timings)
    macs = count_macs(work.session.config.model)
    speed, peak = speeds["ours"].images_per_second, machine.peak_flop_per_second
    return {
        "choices": to_json(choices),
        "batch_size": batch,
        "num_macs": macs,
        "first_losses": dict(zip(("paper", "ours"), losses, strict=True)),
        "first_step_seconds": first,
        "speeds": to_json(speeds),
        "ours_over_paper": speeds["paper"].seconds / speeds["ours"].seconds,
        "machine": to_json(machine),
        "utilisation": {name: utilisation(macs, speed, peak[name]) for name in peak},
    }


def main() -> None:
    """Print a line a shape; write the record where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="CPU threads of torch; by default as many as torch chooses")
    parser.add_argument("--turns", type=int, default=5, help="timed turns of each")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="of ours")
    parser.add_argument("--attention", default="auto", choices=("auto", "bmm", "sdpa", "native"), help="of ours")
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"), help="of ours")
    parser.add_argument("--json", type=Path, help="where to write the record")
    options = parser.parse_args()
    place = DeviceConfig(
        device=options.device,
        precision=options.precision,
        attention=options.attention,
        compile=options.compile,
        num_threads=options.threads,
    )
    beginning = circumstances()
    shapes: dict[str, dict[str, object]] = {}
    recipe = baseline()
    for name, changes in SHAPES.items():
        model = replace(recipe.model, **changes)
        train = replace(recipe.train, batch_size=options.batch_size)
        found = compare(replace(recipe, model=model, train=train, device=place), options.turns)
        shapes[name] = found
        speeds, choices = found["speeds"], found["choices"]
        paper, ours = (speeds[who]["images_per_second"] for who in ("paper", "ours"))
        how = f"{choices['device']}, {choices['precision']}, {choices['attention']}"
        print(
            f"{name}: paper {paper:,.0f} images/s, ours {ours:,.0f} ({how}), "
            f"{found['ours_over_paper']:.2f} times; {found['utilisation'][choices['precision']]:.0%} of the peak"
        )
    if options.json is not None:
        record = {
            "kind": "paper-step",
            "schema": 1,
            **beginning,
            "shapes": shapes,
        }
        write_json(options.json, record)


if __name__ == "__main__":
    main()
