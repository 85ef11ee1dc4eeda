"""Models that others wrote, of the same shape and under the same step; each only where it can be imported."""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from smallvit.bench.workload import TrainingStep, Workload
from smallvit.checks import require, require_one_of
from smallvit.config import RunConfig
from smallvit.device.choose import timed, torch_kept
from smallvit.device.fastest import measured
from smallvit.model.config import ModelConfig
from smallvit.model.vit import count_parameters
from smallvit.train.average import WeightAverage
from smallvit.train.loop import Learner
from smallvit.train.losses import soft_cross_entropy
from smallvit.train.optim import build_optimizers

PEERS_HAVE = (
    "image_size",
    "num_classes",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "num_cls_tokens",
    "position",
    "patch_init",
    "init",
    "drop_path_rate",
)
"""Fields of a model that a peer is built with, or that do not change its arithmetic; of the others only the default."""

_declared: list[torch.library.Library] = []  # a declaration lasts as long as its object


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A public package and how it builds a model of our shape."""

    module: str
    build: Callable[[Any, ModelConfig], nn.Module]
    differs: str
    """What its model does otherwise, for the reader of a ratio."""
    attentions: Mapping[str, Callable[[nn.Module], object]] = field(default_factory=lambda: {"": lambda model: None})
    """By name what gives its model each attention that it has, of which the fastest counts, as with ours."""


def _build_timm(timm: Any, config: ModelConfig) -> nn.Module:
    return timm.VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=config.num_classes,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        class_token=config.num_cls_tokens > 0,
        reg_tokens=max(config.num_cls_tokens - 1, 0),
        global_pool="token" if config.num_cls_tokens else "avg",
        fc_norm=False,
        drop_path_rate=config.drop_path_rate,
    )


def _build_vit_pytorch(vit_pytorch: Any, config: ModelConfig) -> nn.Module:
    return vit_pytorch.ViT(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=config.num_classes,
        dim=config.embed_dim,
        depth=config.depth,
        heads=config.num_heads,
        dim_head=config.embed_dim // config.num_heads,
        mlp_dim=round(config.mlp_ratio * config.embed_dim),
        pool="cls" if config.num_cls_tokens else "mean",
    )


def _fuse(model: nn.Module, fused: bool) -> None:
    for module in model.modules():
        if "fused_attn" in vars(module):
            vars(module)["fused_attn"] = fused


PEERS = {
    "timm": Peer(
        module="timm.models.vision_transformer",
        build=_build_timm,
        differs="further CLS tokens are registers, which its head does not read",
        attentions={"fused attention": partial(_fuse, fused=True), "plain products": partial(_fuse, fused=False)},
    ),
    "vit-pytorch": Peer(
        module="vit_pytorch",
        build=_build_vit_pytorch,
        differs="one CLS token at most, no stochastic depth, no bias on q, k, v, two more norms at the patches",
    ),
}


class PeerStep:
    """A peer's model under our loss, precision, optimiser and batch."""

    def __init__(self, name: str, workload: Workload, attention: str) -> None:
        session = workload.session
        self.version, self.differs = version(name), PEERS[name].differs + (f"; by {attention}" if attention else "")
        with torch_kept():
            torch.default_generator.manual_seed(session.config.seed)
            module = import_beside_torch(PEERS[name].module)
            model = PEERS[name].build(module, session.config.model).to(workload.device)
        PEERS[name].attentions[attention](model)
        self.num_parameters = count_parameters(model)
        loss = _PeerLoss(model, workload.device, session.choices.precision)
        if session.choices.compile:
            loss.compile(fullgraph=True)
        average = WeightAverage(model, session.config.train.ema_decay)
        optimizers = build_optimizers(model, session.config.optim, session.choices.dtype)
        learner = Learner(loss, optimizers, average, clip_norm=session.config.optim.clip_norm)
        self.step = TrainingStep(learner, workload.step.batch)
        self.first_step_seconds = timed(self.step, workload.device)


def fastest_step(name: str, workload: Workload) -> PeerStep:
    """Return a peer's step by the attention of its own that makes it fastest here."""
    steps = {attention: PeerStep(name, workload, attention) for attention in PEERS[name].attentions}
    seconds, _ = measured({attention: peer.step for attention, peer in steps.items()}, workload.device)
    return min(steps.items(), key=lambda each: seconds.get(each[0]) or math.inf)[1]


def parse_peers(names: str, config: RunConfig) -> tuple[str, ...]:
    """Return the peers in a comma-separated list; raise `UsageError` for an unknown one, or a config without a twin."""
    peers = tuple(dict.fromkeys(name.strip() for name in names.split(","))) if names else ()
    for name in peers:
        require_one_of("--against", name, tuple(PEERS))
    if peers:
        model, plain, why = config.model, ModelConfig(), "leave out --against: the others have no such model"
        for name in (field.name for field in fields(model) if field.name not in PEERS_HAVE):
            value = getattr(model, name)
            require(value == getattr(plain, name), f"model.{name}", value, why)
        require(model.position != "rotary", "model.position", model.position, why)
        loss = config.train.loss
        require(loss == "cross-entropy", "train.loss", loss, "leave out --against: the others' loss is cross-entropy")
        adjustment = config.train.logit_adjustment
        require(adjustment == 0, "train.logit_adjustment", adjustment, "leave out --against: the others' loss has none")
        optimizer = config.optim.optimizer
        why = "it goes by our modules' names; --against needs another, as --optim.optimizer adamw"
        require(optimizer != "muon", "optim.optimizer", optimizer, why)
    return peers


def why_missing(name: str) -> str | None:
    """Return why a peer cannot take part, with what would mend it; None where it can."""
    try:
        import_beside_torch(PEERS[name].module)
    except ImportError:
        return f"{name} is not installed; to have it: pip install -c constraints.txt -e '.[oracle]' in the checkout"
    return None


def import_beside_torch(module: str) -> Any:
    """Return a module that imports torchvision; raise `ImportError` where it is not installed.

    torchvision's public build only imports beside a CPU torch once two of its operators are declared.
    """
    try:
        return importlib.import_module(module)
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        return importlib.import_module(module)


class _PeerLoss(nn.Module):
    """A peer draws its own stochastic depth, so our draw is not used."""

    def __init__(self, model: nn.Module, device: str, precision: str) -> None:
        super().__init__()
        self.model, self.device, self.precision = model, device, precision

    def forward(self, images: Tensor, targets: Tensor, _: Tensor | None) -> Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits = self.model(images)
        return soft_cross_entropy(logits, targets)
