"""A config made real: its data on the device, its model, and the functions that train and measure it.

With several ranks, each holds the whole data and model and does its share of every batch; see `train.distributed`.
Shapes: n images of a split, C classes.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from typing import assert_never, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smallvit import rng
from smallvit.augment.params import sent
from smallvit.augment.pipeline import apply_augment, compiled_augment, normalise
from smallvit.choices import decide
from smallvit.config import RunConfig
from smallvit.data.loader import DeviceSplit, Order
from smallvit.data.split import digest
from smallvit.data.store import Dataset
from smallvit.device.choose import Choices
from smallvit.errors import SmallvitError, UsageError
from smallvit.evaluate import predict
from smallvit.model.embed import image_patches
from smallvit.model.init import init_whitening, init_whitening_paper
from smallvit.model.vit import VisionTransformer
from smallvit.step_batch import Apply, RecordedApply, augment_step, step_draws
from smallvit.train.average import WeightAverage
from smallvit.train.distributed import ALONE, World
from smallvit.train.loop import Batch, Learner, drop_path_uniform
from smallvit.train.losses import LOSSES, LogitAdjustment
from smallvit.train.optim import build_optimizers

WHITENING_IMAGES = 10_000
"""Training images whose patches whiten the first layer, of up to 32 x 32 pixels; of larger ones as many pixels: their
patches are gigabytes already.
"""


class Session:
    """A config's data on the device, its model, and what trains and measures it.

    Making one, `loss_function`, `learner` and `predict` are calls that every rank of `world` must make. `earlier` are
    the choices of the run that this goes on from or measures anew: what `auto` found then holds, as it decides how
    numbers round.
    """

    def __init__(
        self, config: RunConfig, dataset: Dataset, world: World = ALONE, earlier: Choices | None = None
    ) -> None:
        self.config, self.dataset, self.world = config, dataset, world
        if config.train.batch_size % world.size:
            raise UsageError(
                f"train.batch_size is {config.train.batch_size}: {world.size} ranks share it, "
                f"so it must be a multiple of {world.size}"
            )
        images = len(dataset.train) * config.length.passes_per_epoch
        if config.train.batch_size > images:
            few = ", of so few pictures better 64" if 64 < images < 1000 else ""
            raise UsageError(
                f"train.batch_size is {config.train.batch_size}: an epoch has only {images} images, so it must be at "
                f"most that{few}"
            )
        self.choices = decide(config, world, earlier)
        device = self.choices.device
        if self.choices.compile:  # a function is compiled at most eight times in a process, those just measured as well
            torch.compiler.reset()
        noise = config.augment.erase_probability > 0 and config.augment.erase_fill == "noise"
        if device == "mps" and (noise or config.augment.policy != "none"):
            raise UsageError("device.device is mps: policies and erasing with noise need float64, which MPS has not")
        on_gpu, switches = device == "cuda", config.device
        self.prefetch = on_gpu if switches.prefetch == "auto" else switches.prefetch == "on"
        """Whether the next batch is to be made while the device works on this one."""
        self.graphs = self._uses_graphs(on_gpu)
        """Whether a step is to be recorded as CUDA graphs."""
        with_step = on_gpu and self.choices.compile
        compiled = with_step if switches.compile_augment == "auto" else switches.compile_augment == "on"
        self._apply = compiled_augment(on_gpu=on_gpu) if compiled else apply_augment
        self._apply_in_step = RecordedApply(self._apply) if compiled and self.graphs else self._apply
        self.splits = {name: DeviceSplit.of(split, device) for name, split in dataset.splits().items()}
        self.order = Order(
            len(self.splits["train"]),
            batch_size=config.train.batch_size,
            passes_per_epoch=config.length.passes_per_epoch,
            repeats_in_batch=config.train.repeats_in_batch,
            seed=config.seed,
        )
        rng.seed_torch(config.seed, "layers")  # for layers that draw their first weights themselves
        self.model = VisionTransformer(
            config.model,
            attention=self.choices.attention,
            convolution=self.choices.convolution,
            generator=rng.torch_generator(config.seed, "init"),
        )
        if earlier is None and config.fork is None:  # otherwise its weights come from a file
            self._whiten()
        if world.size > 1:  # whitening may round otherwise on another machine
            self.model.load_state_dict(world.broadcast_tensors(self.model.state_dict()))
        self.model.to(device)
        self.average = WeightAverage(self.model, config.train.ema_decay)

    @cached_property
    def test_sha256(self) -> str:
        """Of the test split's pixels and labels."""
        return digest(self.dataset.test)

    @cached_property
    def val_sha256(self) -> str | None:
        """Of val's, if any is held out."""
        return None if self.dataset.val is None else digest(self.dataset.val)

    @cached_property
    def adjustment(self) -> LogitAdjustment | None:
        """The loss that makes up for uneven classes, where the config has one (`train.logit_adjustment`)."""
        train = self.config.train
        if not train.logit_adjustment:
            return None
        return LogitAdjustment(
            torch.tensor(self.dataset.train.labels),
            self.dataset.spec.num_classes,
            times=train.logit_adjustment,
            label_smoothing=train.label_smoothing,
            device=self.choices.device,
        )

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return new optimisers of the model."""
        return build_optimizers(self.model, self.config.optim, self.choices.dtype, recordable=self.graphs)

    def learner(self, optimizers: Sequence[torch.optim.Optimizer]) -> Learner:
        """Return what learns by these optimisers; see `loss_function`."""
        clip_norm = self.config.optim.clip_norm
        return Learner(self.loss_function(), optimizers, self.average, graphs=self.graphs, clip_norm=clip_norm)

    def batch(self, step: int) -> Batch:
        """Return this rank's share of a step's augmented batch and stochastic depth; on a GPU it may be valid until the
        next call only.

        The shares of all ranks, one after another, are the same batch for every number of ranks: a function of seed and
        step alone.
        """
        rng.seed_torch(self.config.seed, f"layers of rank {self.world.rank}", step)  # for what the model draws itself
        images, targets = self._augmented(step, self.world, self._apply_in_step)
        branch_scale = None
        if self.config.model.drop_path_rate > 0:
            size = self.config.train.batch_size
            uniform = drop_path_uniform(self.config.seed, step, len(self.model.all_blocks), size)
            branch_scale = self.model.drop_path_scale(sent(uniform[..., self.world.share(size)], self.choices.device))
        return Batch(images, targets, branch_scale)

    def loss_function(self) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        """Return the loss of this rank's batch, in the chosen precision, compiled where chosen.

        Its gradients are the mean over the ranks, and so those of the whole batch.
        """
        loss = _Loss(self.model, self.adjustment or LOSSES[self.config.train.loss], self._precision)
        if self.choices.compile:
            self._compile(loss)

        def example() -> tuple[Tensor, Tensor, Tensor | None]:
            first = self.batch(0)
            return first.images, first.targets, first.branch_scale

        return self.world.parallel(loss, example)

    def predict(self, split: str, check: Callable[[], None] | None = None) -> Float[Tensor, "n C"]:
        """Return the float32 logits of a split's images, on the CPU, all of them on every rank.

        They are those of the averaged weights, where the config averages them. The head is in float32 in any precision:
        of logits of bfloat16's 8 bits, two may well be the largest. The forward passes are those of a single rank,
        shared out, so that the logits are, too. `check` is called before each, as often on every rank, and may raise.
        Raises `SmallvitError` if a logit is not a finite number: a step can ruin the weights and leave its own loss
        whole.
        """
        images, size = self.splits[split].images, self.config.evaluate.batch_size
        model = cast("VisionTransformer", self.average.measured)
        passes = math.ceil(len(images) / size)
        share = self.world.share(passes)

        def forward(images: Tensor) -> Tensor:
            with self._precision(), self._not_compiled():
                tokens = model.forward_features(normalise(images, self.dataset.spec.mean, self.dataset.spec.std))
            return model.forward_head(tokens.float())

        model.eval()
        try:
            own = images[share.start * size : share.stop * size]
            logits = predict(forward, own, size, check) if len(own) else torch.empty(0, self.dataset.spec.num_classes)
            for _ in range(share.stop - share.start, self.world.most(passes)):
                if check is not None:
                    check()
        finally:
            model.train()
        logits = self.world.gather_rows(logits)
        if not logits.isfinite().all():
            why = f"the model's outputs on {split} are not finite numbers"
            raise SmallvitError(f"{why}: try a lower optim.lr, or muon_lr if that is set")
        return logits

    def _augmented(self, step: int, world: World, apply: Apply) -> tuple[Tensor, Tensor]:
        spec, train = self.dataset.spec, self.splits["train"]
        indices = self.order.batch(step)
        draws = step_draws(self.config, step, indices, self.order.showings(step))
        if world.size > 1:
            draws = draws[world.share(len(indices))]
        return augment_step(self.config, spec, train, indices, draws, apply)

    def _uses_graphs(self, on_gpu: bool) -> bool:
        asked, mode = self.config.device.cuda_graphs, self.config.device.compile_mode
        possible = on_gpu and self.world.size == 1 and mode == "default"
        if asked == "on" and not possible:
            raise UsageError("device.cuda_graphs is on: it needs device cuda, one process and compile_mode default")
        return possible and asked != "off"

    def _precision(self) -> torch.autocast:
        enabled = self.choices.precision == "bfloat16"
        return torch.autocast(self.choices.device, dtype=torch.bfloat16, enabled=enabled)

    @contextlib.contextmanager
    def _not_compiled(self) -> Generator[None]:
        """The context of an evaluation: compiled blocks are for the shapes of training."""
        if not self.choices.compile:  # to say so would import the compiler
            yield
            return
        with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "flex_attention called without torch.compile")  # which is meant
            yield

    def _compile(self, loss: "_Loss") -> None:
        mode = self.config.device.compile_mode
        if self.choices.device != "cpu":
            loss.compile(fullgraph=True, mode=mode)
            return
        # One block, compiled, serves for all: as fast, in a third of the time that all of it takes. What the processor
        # has is read from the system; to try it by compiling took 8 s more.
        from torch._inductor.config import cpp

        cpp.vec_isa_ok = True
        for block in self.model.all_blocks:
            block.compile(fullgraph=True, dynamic=False, mode=mode)

    def _whiten(self) -> None:
        kind, spec, layer = self.config.model.patch_init, self.dataset.spec, self.model.patch_embed.first_convolution
        if kind == "random" or layer is None:
            return
        generator = rng.torch_generator(self.config.seed, "whitening")
        count = max(1, round(WHITENING_IMAGES * min(1, (32 / self.config.model.image_size) ** 2)))
        if kind == "whiten":
            train = self.splits["train"]
            chosen = torch.randperm(len(train), generator=generator)[:count]
            images = normalise(train.images[chosen.to(train.images.device)], spec.mean, spec.std)
            init_whitening(layer, image_patches(images, layer).cpu(), generator)
        elif kind == "whiten-paper":
            batches = math.ceil(min(count, len(self.splits["train"])) / self.config.train.batch_size)
            images = torch.cat([self._augmented(step, ALONE, self._apply)[0] for step in range(batches)])
            init_whitening_paper(layer, image_patches(images, layer).cpu())
        else:
            assert_never(kind)


class _Loss(nn.Module):
    """A model and its loss as one module, as DistributedDataParallel wants it."""

    def __init__(
        self,
        model: VisionTransformer,
        of_logits: Callable[[Tensor, Tensor], Tensor],
        precision: Callable[[], torch.autocast],
    ) -> None:
        super().__init__()
        self.model = model
        self.of_logits = of_logits
        self.precision = precision

    def forward(self, images: Tensor, targets: Tensor, branch_scale: Tensor | None) -> Tensor:
        with self.precision():
            logits = self.model(images, branch_scale)
        return self.of_logits(logits, targets)
