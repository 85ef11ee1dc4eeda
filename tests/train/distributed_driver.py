"""One rank of the tests of several: `distributed_driver.py WHAT FOLDER TIMEOUT`, which torchrun starts.

Ends as the command line does: one line on stderr and an exit status. SIGTERM, which torchrun sends to the others when
one rank is gone, is noted and does not end it: that is the business of a step.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file

from smallvit.augment.config import AugmentConfig
from smallvit.config import EvaluateConfig, RunConfig
from smallvit.data.config import DataConfig
from smallvit.data.store import load_dataset
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError
from smallvit.evaluate import measure
from smallvit.model.config import ModelConfig
from smallvit.session import Session
from smallvit.strict_json import to_json
from smallvit.train.config import OptimConfig, TrainConfig
from smallvit.train.distributed import World
from smallvit.train.loop import Learner, fit
from smallvit.train.rendezvous import join

STEPS = 6
CONFIG = RunConfig(
    data=DataConfig(dataset="digits"),
    augment=AugmentConfig(
        policy="trivialaugment", erase_probability=0.3, cutmix_alpha=1.0, mixup_alpha=1.0, mix_per="image"
    ),
    model=ModelConfig(
        image_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, drop_path_rate=0.2, patch_init="whiten-paper"
    ),
    optim=OptimConfig(lr=3e-3, warmup_epochs=0.0),
    train=TrainConfig(batch_size=48),
    evaluate=EvaluateConfig(batch_size=50),
    # Given: what auto measures depends on a rank's share of the batch, and so may differ with their number.
    device=DeviceConfig(device="cpu", precision="float32", attention="sdpa", num_threads=1),
)


def session_of(world: World, **changes: Any) -> Session:
    config = replace(CONFIG, **changes)
    dataset = load_dataset(config.data, image_size=config.model.image_size)
    return Session(config.resolve(dataset.spec.num_classes), dataset, world)


def learner_of(session: Session) -> Learner:
    return session.learner(session.optimizers())


def digest(*tensors: torch.Tensor) -> str:
    return sha256(b"".join(tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()


def train(world: World, folder: Path) -> dict[str, Any]:
    """Train a little and measure; the batches, the weights and the logits as hashes, rank 0's weights as a file."""
    session = session_of(world)
    batches: list[str] = []
    for step in range(STEPS):
        batch = session.batch(step)
        assert batch.branch_scale is not None
        parts = (batch.images, batch.targets, batch.branch_scale.permute(2, 0, 1))
        batches.append(digest(*(world.gather_rows(part.contiguous()) for part in parts)))
    states = fit(
        learner_of(session),
        session.batch,
        rate=lambda _: session.config.optim.lr,
        total_steps=STEPS,
        world=world,
    )
    losses = [float(state.loss) for state in states]
    state = session.model.state_dict()
    checks: list[bool] = []
    logits = session.predict("test", lambda: checks.append(world.any(False)))
    if world.is_main:
        save_file(state, folder / "weights.safetensors")
    start = session_of(world)
    of_passes = digest(start.predict("test"))
    start.config = replace(start.config, evaluate=EvaluateConfig(batch_size=1000))
    return {
        "choices": to_json(session.choices),
        "batches": batches,
        "losses": losses,
        "weights": digest(*state.values()),
        "checks": len(checks),
        "start": [digest(*start.model.state_dict().values()), of_passes],
        "one_pass": digest(start.predict("test")),
        "logits": digest(logits),
        "metrics": to_json(measure(logits, session.splits["test"].labels)),
    }


def variants(world: World, folder: Path) -> dict[str, Any]:
    """Train a little with every variant on, and measure by the averaged weights."""
    model = ModelConfig(
        image_size=8, patch_size=2, embed_dim=16, depth=2, num_heads=2, num_cls_tokens=2, num_registers=1,
        position="rotary", tokenizer="conv", qk_norm="rms", locality="lsa", mlp_conv="depthwise", layer_scale=0.1,
        pooling="cls+mean", init="mimetic",
    )  # fmt: skip
    session = session_of(
        world,
        model=model,
        augment=replace(CONFIG.augment, flip="alternating"),
        optim=OptimConfig(optimizer="muon", lr=3e-3, muon_lr=1e-2, warmup_epochs=0.0),
        train=TrainConfig(batch_size=48, ema_decay=0.5, loss="bce"),
    )
    states = fit(learner_of(session), session.batch, rate=lambda _: 3e-3, total_steps=3, world=world)
    losses = [float(state.loss) for state in states]
    groups = session.average.tensors()
    return {
        "losses": losses,
        "weights": {name: digest(*tensors.values()) for name, tensors in groups.items()},
        "logits": digest(session.predict("test")),
    }


def go_on(world: World, folder: Path) -> dict[str, Any]:
    """Return the gradients of step 3 from a session in its fourth step and from one in its first."""
    before, after = session_of(world), session_of(world)
    gradients: list[str] = []
    for session, steps in ((before, range(4)), (after, range(3, 4))):
        loss = session.loss_function()
        for step in steps:
            session.model.zero_grad()
            batch = session.batch(step)
            loss(batch.images, batch.targets, batch.branch_scale).backward()
        gradients.append(digest(*(p.grad for p in session.model.parameters() if p.grad is not None)))
    return {"gradients": gradients}


def talk(world: World, folder: Path) -> dict[str, Any]:
    """Say everything that ranks can say, and compare it with what must arrive."""
    world.barrier()
    rank, size = world.rank, world.size
    everywhere = [world.any(False), world.any(True), world.any(rank == size - 1), world.any(rank == 0)]
    mine = {
        "half": torch.full((2, 3), float(rank)).bfloat16(),
        "flag": torch.tensor(rank == 0),
        "none": torch.empty(0, 4),
        "turned": torch.arange(6 + rank).view(-1, 1)[:6].view(2, 3).T,
        "float": torch.tensor(float(rank), dtype=torch.float64),
    }
    theirs = world.broadcast_tensors(mine if world.is_main else {"other": torch.ones(7)})
    rows = world.gather_rows(torch.full((rank, 2), rank, dtype=torch.int64))
    groups = [group._get_backend(torch.device("cpu")) for group in (world.control, world.patient) if group is not None]
    value = {"step": 3, "names": ["é", None], "nested": {"x": 0.1}}
    return {
        "patience": [group.options._timeout.total_seconds() for group in groups],
        "any": everywhere,
        "object": world.broadcast_object(value if world.is_main else rank),
        "long": len(world.broadcast_object("x" * 300_000 if world.is_main else None)),
        "tensors": {name: [str(t.dtype), list(t.shape), t.double().tolist()] for name, t in theirs.items()},
        "mean": world.mean(torch.tensor([float(rank), 1.0])).tolist(),
        "rows": rows.tolist(),
        "no_rows": list(world.gather_rows(torch.empty(0, 5)).shape),
    }


def not_finite(world: World, folder: Path) -> dict[str, Any]:
    """Return what every rank says when one rank's logits alone are no numbers."""
    session = session_of(world)
    if world.rank == world.size - 1:
        session.model.head.register_forward_hook(lambda module, given, logits: logits * float("nan"))
    try:
        session.predict("test")
    except SmallvitError as error:
        return {"error": str(error), "trains": session.model.training}
    return {}


def endless(world: World, folder: Path) -> dict[str, Any]:
    """Train until something happens; each rank says when it has taken three steps."""
    session = session_of(world, train=TrainConfig(batch_size=48, epochs=10_000))
    steps = 0
    states = fit(
        learner_of(session),
        session.batch,
        rate=lambda _: 1e-3,
        total_steps=10**6,
        world=world,
    )
    with world.guarded(lambda: f"in step {steps}"):
        for state in states:
            steps = state.step + 1
            if steps == 3:
                (folder / f"ready{world.rank}").write_text(str(os.getpid()))
    return {}


def fork_ranks(jobs: dict[str, list[Any]]) -> NoReturn:
    """Be all ranks of some jobs, each a number of ranks with a port and a folder, in a process each: what costs most is
    to import torch. End with the first status that is not 0.
    """
    import torch._dynamo  # noqa: F401  # an optimiser does

    children: list[int] = []
    for size, (port, folder) in jobs.items():
        for rank in range(int(size)):
            children.append(os.fork())
            if not children[-1]:
                if int(size) > 1:
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size}
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                sys.argv[2] = folder
                try:
                    be_rank()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(0)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(next((status for status in statuses if status), 0))


def main() -> None:
    if sys.argv[2].startswith("{"):
        fork_ranks(json.loads(sys.argv[2]))
    be_rank()


def be_rank() -> None:
    what, folder, timeout = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    actions = {f.__name__: f for f in (train, variants, go_on, talk, not_finite, endless)}
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with join(timeout_seconds=timeout, start_seconds=60.0) as world:  # as for a run before
            world.barrier()
        with join(timeout_seconds=timeout, start_seconds=60.0) as world:
            found = {name: actions[name](world, folder) for name in what.split(",")}
            found["initialized"] = torch.distributed.is_initialized()
            (folder / f"rank{world.rank}.json").write_text(json.dumps(found))
    except SmallvitError as error:
        print(error, file=sys.stderr, flush=True)
        if error.ends_at_once:
            os._exit(error.exit_status)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
