"""The ranks' shares of a batch, put together, are the single process's batch, bit for bit; in one process."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvit.augment.config import AugmentConfig
from smallvit.config import EvaluateConfig, RunConfig
from smallvit.data.config import DataConfig
from smallvit.data.spec import SPECS
from smallvit.data.split import Split
from smallvit.data.store import Dataset
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.model.config import ModelConfig
from smallvit.run import require_same_everywhere
from smallvit.session import Session
from smallvit.train.config import TrainConfig
from smallvit.train.distributed import ALONE, World
from smallvit.train.loop import Batch

SIDE = 12
CONFIG = RunConfig(
    data=DataConfig(dataset="cifar10"),
    model=ModelConfig(num_classes=10, image_size=SIDE, patch_size=6, embed_dim=8, depth=2, num_heads=2),
    train=TrainConfig(batch_size=24),
    device=DeviceConfig(device="cpu", precision="float32", attention="bmm", num_threads=1),
    evaluate=EvaluateConfig(batch_size=7),
)


class Silent(World):
    """A rank that hears what it says: the others are made one after another."""

    def barrier(self) -> None:
        pass

    def broadcast_object(self, value: Any) -> Any:
        return value

    def broadcast_tensors(self, tensors: Any) -> dict[str, torch.Tensor]:
        return dict(tensors)

    def any(self, flag: bool) -> bool:
        return flag


@cache
def dataset(count: int = 60) -> Dataset:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)
    split = Split(images=images, labels=random.integers(0, 10, count))
    return Dataset(spec=SPECS["cifar10"], train=split, val=None, test=split, notes=())


def probabilities(*others: float) -> st.SearchStrategy[float]:
    return st.sampled_from([0.0, 1.0, *others])


augments = st.fixed_dictionaries(
    {
        "horizontal_flip": probabilities(0.5),
        "crop_padding": st.sampled_from([0, 4]),
        "affine_degrees": st.sampled_from([0.0, 10.0]),
        "policy": st.sampled_from(
            ["none", "autoaugment-cifar10", "autoaugment-imagenet", "randaugment", "trivialaugment", "three-augment"]
        ),
        "policy_variant": st.sampled_from(["deepvoltaire", "paper", "torchvision"]),
        "erase_probability": probabilities(0.25),
        "erase_fill": st.sampled_from(["raw-mean", "mean", "noise"]),
        "cutmix_alpha": st.sampled_from([0.0, 1.0]),
        "mixup_alpha": st.sampled_from([0.0, 0.8]),
        "mix_probability": probabilities(0.5),
        "mix_per": st.sampled_from(["batch", "image"]),
    }
)


def bits(batch: Batch) -> tuple[bytes, ...]:
    parts = (batch.images, batch.targets, batch.branch_scale)
    return tuple(b"" if part is None else part.contiguous().numpy().tobytes() for part in parts)


@settings(max_examples=50)
@given(
    size=st.sampled_from([2, 4, 8]),
    augment=augments,
    batch_size=st.sampled_from([8, 24, 56]),
    repeats=st.sampled_from([1, 4]),
    drop_path_rate=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 1000),
    step=st.integers(0, 20),
)
def test_the_shares_of_a_batch_are_the_whole_batch(
    size: int, augment: dict[str, Any], batch_size: int, repeats: int, drop_path_rate: float, seed: int, step: int
) -> None:
    config = replace(
        CONFIG,
        seed=seed,
        augment=AugmentConfig(**augment),
        model=replace(CONFIG.model, drop_path_rate=drop_path_rate),
        train=TrainConfig(batch_size=batch_size, repeats_in_batch=repeats),
    )
    whole = Session(config, dataset()).batch(step)
    assert len(whole.images) == batch_size
    shares = [Session(config, dataset(), Silent(rank, size)).batch(step) for rank in range(size)]
    assert {len(share.images) for share in shares} == {batch_size // size}
    scales = [share.branch_scale for share in shares if share.branch_scale is not None]
    together = Batch(
        images=torch.cat([share.images for share in shares]),
        targets=torch.cat([share.targets for share in shares]),
        branch_scale=torch.cat(scales, dim=-1) if scales else None,
    )
    assert bits(together) == bits(whole)


@pytest.mark.parametrize("patch_init", ["random", "whiten", "whiten-paper"])
def test_the_first_weights_do_not_depend_on_rank_or_size(patch_init: Any) -> None:
    augment = AugmentConfig(mixup_alpha=1.0, cutmix_alpha=1.0, policy="trivialaugment")
    model = replace(CONFIG.model, patch_init=patch_init)
    config = replace(CONFIG, model=model, augment=augment)
    alone = Session(config, dataset()).model.state_dict()
    for rank in range(4):
        others = Session(config, dataset(), Silent(rank, 4)).model.state_dict()
        assert all(torch.equal(alone[name], value) for name, value in others.items())


def test_ranks_with_other_images_are_refused() -> None:
    """Their parts of a batch are parts by number; and rank 0's labels are those of test."""

    class Hearing(Silent):
        """A rank that hears what rank 0 says, and whether another one has something to say."""

        said: Any = None
        others = False

        def broadcast_object(self, value: Any) -> Any:
            return value if self.said is None else self.said

        def any(self, flag: bool) -> bool:
            return flag or self.others

    mine, moved = dataset(), dataset().train.labels.copy()
    moved[0] = (moved[0] + 1) % 10
    theirs = replace(mine, train=replace(mine.train, labels=moved))
    first, second = Hearing(0, 2), Hearing(1, 2)
    require_same_everywhere(first, mine)
    first.broadcast_object = lambda value: vars(second).update(said=value) or value
    require_same_everywhere(first, mine)
    require_same_everywhere(second, mine)
    with pytest.raises(
        SmallvitError, match=r"other images: train of this process are not those of the first; give all"
    ):
        require_same_everywhere(second, theirs)
    first.others = True
    with pytest.raises(SmallvitError, match="other images: those of another; give all"):
        require_same_everywhere(first, mine)


@given(st.integers(0, 1000), st.integers(1, 64))
def test_shares_cover_everything_once_and_differ_by_one_at_most(count: int, size: int) -> None:
    worlds = [World(rank, size) for rank in range(size)]
    shares = [world.share(count) for world in worlds]
    assert [index for share in shares for index in range(count)[share]] == list(range(count))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert {world.most(count) for world in worlds} == {max(lengths)}


@pytest.mark.parametrize("size", [3, 5, 7, 16])
def test_a_batch_that_cannot_be_shared_is_one_line(size: int) -> None:
    config = replace(CONFIG, train=TrainConfig(batch_size=8))
    with pytest.raises(UsageError) as caught:
        Session(config, dataset(), World(0, size))
    message = f"train.batch_size is 8: {size} ranks share it, so it must be a multiple of {size}"
    assert str(caught.value) == message


@pytest.mark.parametrize(("batch_size", "passes"), [(7, 9), (60, 1), (1000, 1), (59, 2)])
def test_every_forward_pass_is_preceded_by_a_check(batch_size: int, passes: int) -> None:
    session = Session(replace(CONFIG, evaluate=EvaluateConfig(batch_size=batch_size)), dataset())
    events: list[str] = []
    session.model.head.register_forward_pre_hook(lambda *_: events.append("forward"))
    session.predict("test", lambda: events.append("check"))
    assert events == ["check", "forward"] * passes


def test_a_check_that_raises_ends_the_evaluation_and_leaves_the_model_in_training() -> None:
    session, left = Session(CONFIG, dataset()), [2]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.predict("test", check)
    assert session.model.training


def test_messages_of_the_world_of_one_stay_with_it() -> None:
    rows = torch.arange(6.0).view(3, 2)
    assert ALONE.is_main
    assert ALONE.any(True)
    assert not ALONE.any(False)
    assert ALONE.broadcast_object({"a": [1, "é", None]}) == {"a": [1, "é", None]}
    assert ALONE.broadcast_tensors({"rows": rows})["rows"] is rows
    assert ALONE.mean(rows) is rows
    assert ALONE.gather_rows(rows) is rows
    module = torch.nn.Linear(1, 1)
    assert ALONE.parallel(module, lambda: pytest.fail("there is nothing to try")) is module
    ALONE.barrier()
    assert not torch.distributed.is_initialized()
