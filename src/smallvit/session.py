"""A config made real: its data on the device, its model, and the functions that train and measure it.

Shapes: n images of a split, C classes.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from smallvit import rng
from smallvit.augment.pipeline import apply_augment, normalise, sample_augment
from smallvit.config import RunConfig
from smallvit.data.loader import DeviceSplit, Order
from smallvit.data.store import Dataset
from smallvit.device.choose import choose
from smallvit.errors import SmallvitError, UsageError
from smallvit.evaluate import predict
from smallvit.model.embed import image_patches
from smallvit.model.init import init_whitening, init_whitening_paper
from smallvit.model.vit import VisionTransformer
from smallvit.train.loop import Batch, drop_path_uniform, soft_cross_entropy

WHITENING_IMAGES = 10_000


class Session:
    """A config's data on the device, its model, and what trains and measures it."""

    def __init__(self, config: RunConfig, dataset: Dataset) -> None:
        self.config, self.dataset = config, dataset
        tokens = config.model.num_patches + config.model.num_cls_tokens
        self.choices = choose(config.device, rows=config.train.batch_size * tokens, embed_dim=config.model.embed_dim)
        device = self.choices.device
        self.splits = {
            name: DeviceSplit.of(split, device)
            for name, split in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))
            if split is not None
        }
        self.order = Order(
            len(self.splits["train"]),
            batch_size=config.train.batch_size,
            passes_per_epoch=config.train.passes_per_epoch,
            repeats_in_batch=config.train.repeats_in_batch,
            seed=config.seed,
        )
        if self.order.steps_per_epoch == 0:
            raise UsageError(
                f"train.batch_size is {config.train.batch_size}: an epoch has only "
                f"{len(self.splits['train']) * config.train.passes_per_epoch} images"
            )
        self.model = VisionTransformer(
            config.model, attention=self.choices.attention, generator=rng.torch_generator(config.seed, "init")
        )
        self._whiten()
        self.model.to(device)

    def batch(self, step: int) -> Batch:
        """Return the augmented batch of a step and its stochastic depth; a function of seed and step alone."""
        config, device, train = self.config, self.choices.device, self.splits["train"]
        indices = self.order.batch(step).to(device)
        size = (config.model.image_size, config.model.image_size)
        draws = sample_augment(config.augment, rng.generator(config.seed, "augment", step), len(indices), size)
        images, targets = apply_augment(
            train.images[indices],
            train.labels[indices],
            draws.to(device),
            mean=self.dataset.spec.mean,
            std=self.dataset.spec.std,
            num_classes=self.dataset.spec.num_classes,
            label_smoothing=config.train.label_smoothing,
        )
        branch_scale = None
        if config.model.drop_path_rate > 0:
            uniform = drop_path_uniform(config.seed, step, len(self.model.all_blocks), len(indices))
            branch_scale = self.model.drop_path_scale(uniform.to(device))
        return Batch(images, targets, branch_scale)

    def loss_function(self) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        """Return the loss of a batch, in the chosen precision, compiled where chosen."""

        def loss(images: Tensor, targets: Tensor, branch_scale: Tensor | None) -> Tensor:
            with self._precision():
                logits = self.model(images, branch_scale)
            return soft_cross_entropy(logits, targets)

        return torch.compile(loss, fullgraph=True) if self.choices.compile else loss

    def predict(self, split: str) -> Tensor:
        """Return the float32 logits [n, C] of a split's images, on the CPU.

        Raises `SmallvitError` if one is not a finite number: a step can ruin the weights and leave its own loss whole.
        """

        def forward(images: Tensor) -> Tensor:
            with self._precision():
                return self.model(normalise(images, self.dataset.spec.mean, self.dataset.spec.std))

        self.model.eval()
        logits = predict(forward, self.splits[split].images, self.config.evaluate.batch_size)
        self.model.train()
        if not logits.isfinite().all():
            raise SmallvitError(f"the model's outputs on {split} are not finite numbers: try a lower optim.lr")
        return logits

    def _precision(self) -> torch.autocast:
        enabled = self.choices.precision == "bfloat16"
        return torch.autocast(self.choices.device, dtype=torch.bfloat16, enabled=enabled)

    def _whiten(self) -> None:
        model, spec = self.config.model, self.dataset.spec
        if model.patch_init == "random":
            return
        generator = rng.torch_generator(self.config.seed, "whitening")
        if model.patch_init == "whiten":
            train = self.splits["train"]
            chosen = torch.randperm(len(train), generator=generator)[:WHITENING_IMAGES]
            images = normalise(train.images[chosen.to(train.images.device)], spec.mean, spec.std)
            init_whitening(self.model.patch_embed, image_patches(images, model.patch_size).cpu(), generator)
        else:
            batches = math.ceil(min(WHITENING_IMAGES, len(self.splits["train"])) / self.config.train.batch_size)
            images = torch.cat([self.batch(step).images for step in range(batches)])
            init_whitening_paper(self.model.patch_embed, image_patches(images, model.patch_size).cpu())
