"""What a checkpoint says beside its tensors, and whether a run may go on from it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smallvit.config import RunConfig
from smallvit.device.choose import Choices
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.record import SOURCE, CurvePoint, other_options, versions
from smallvit.run_folder import CHECKPOINTS, CONFIG, as_word
from smallvit.session import Session
from smallvit.step_batch import step_draws
from smallvit.strict_json import from_json
from smallvit.train.checkpoint import load_newest
from smallvit.train.checkpoint_format import Checkpoint, ForeignError, NewerError
from smallvit.train.distributed import World


@dataclass(kw_only=True)
class Gathered:
    """What a run has gathered so far, whatever interrupted it."""

    started: str
    """Coordinated universal time, ISO 8601."""
    train_seconds: float = 0.0
    first_step_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    curve: list[CurvePoint] = field(default_factory=list)
    skipped_steps: list[int] = field(default_factory=list)
    resumed_at_steps: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """The part of a checkpoint that is JSON: whose it is, what it was computed with, what was gathered."""

    config: dict[str, Any]
    versions: dict[str, str]
    choices: Choices
    world_size: int
    draws_sha256: str
    """Of the last step's images, labels and augmentation draws, before any arithmetic."""
    test_sha256: str
    """As a record has it."""
    val_sha256: str | None
    """Likewise."""
    may_be_seen: list[str]
    """Splits of whose images the run that this one was forked off may have been trained on some."""
    gathered: Gathered


def find_checkpoint(
    folder: Path, config: RunConfig, note: Callable[[str], None]
) -> tuple[Checkpoint, SavedState] | None:
    """Return what a run of `config` in `folder` goes on from, or None where it starts from the beginning.

    Raises `UsageError` where the folder holds another run, or one of another version of smallvit.
    """
    if not (folder / CONFIG).exists():
        return None
    _require_same_run(folder, config, RunConfig.load(folder / CONFIG))
    checkpoint, damaged = load_newest(folder / CHECKPOINTS)
    for problem in damaged:
        if isinstance(problem, NewerError):
            raise UsageError(f"{folder / CHECKPOINTS} has {problem}: go on with that version, or name another folder")
        if isinstance(problem, ForeignError):
            raise SmallvitError(
                f"{folder / CHECKPOINTS} has {problem}: it may be whole, so try again, or delete it to go on without it"
            )
        note(f"passed over {problem}")
    if checkpoint is None:
        note(f"{folder} holds an unfinished run without a whole checkpoint, which is started over")
        return None
    theirs, ours = checkpoint.state.get("versions", {}), versions()
    if theirs.get("smallvit") != ours["smallvit"]:
        raise UsageError(
            f"{folder} was saved by smallvit {theirs.get('smallvit')}, and this is {ours['smallvit']}: go on with that "
            f"version, or start a new run from its weights with --fork {as_word(folder)}"
        )
    try:
        saved = from_json(SavedState, checkpoint.state, "its state")
    except SmallvitError as error:
        named = f", {theirs[SOURCE]} by its --version" if SOURCE in theirs else ""
        raise UsageError(
            f"{folder} was saved by another source of smallvit ({error}): go on with that source{named}, start a new "
            f"run from its weights with --fork {as_word(folder)}, or, to begin it again, as in a study, "
            "delete that folder"
        ) from None
    _require_same_run(folder, config, RunConfig.from_json(saved.config))
    if theirs.get(SOURCE) != ours[SOURCE]:
        note("smallvit's source was changed after this run began: its record will name today's alone")
    for name in (name for name in ours if name != SOURCE):
        if theirs.get(name) != ours[name]:
            note(f"{name} is {ours[name]}, was {theirs.get(name)}: the same batches, but numbers may round otherwise")
    return checkpoint, saved


def share_checkpoint(world: World, found: tuple[Checkpoint, SavedState] | None) -> tuple[Checkpoint, SavedState] | None:
    """Return on every rank what rank 0 found; the others need not see its disk."""
    if world.size == 1:
        return found
    checkpoint = found[0] if found else None
    own = checkpoint and [checkpoint.step, checkpoint.state, checkpoint.texts, list(checkpoint.tensors)]
    header = world.broadcast_object(own)
    if header is None:
        return None
    step, state, texts, names = header
    tensors = {name: world.broadcast_tensors(checkpoint.tensors[name] if checkpoint else {}) for name in names}
    checkpoint = Checkpoint(step=step, tensors=tensors, state=state, texts=texts)
    return checkpoint, from_json(SavedState, checkpoint.state, "state")


def note_other_arithmetic(saved: SavedState, choices: Choices, world_size: int, note: Callable[[str], None]) -> None:
    """Say where a resumed run computes otherwise than the part before it."""
    devices = {"devices": (saved.world_size, world_size)} if world_size != saved.world_size else {}
    for name, (then, now) in {**devices, **other_options(saved.choices, choices)}.items():
        note(f"{name}: {now}, was {then}: the same batches, but sums round otherwise")


def note_not_to_be_had(device: DeviceConfig, choices: Choices, note: Callable[[str], None]) -> None:
    """Say where a resumed run lacks what its options name: a new one would be refused."""
    named = {
        "attention": (device.attention, choices.attention),
        "convolution": (device.convolution, choices.convolution),
    }
    for what, (asked, taken) in named.items():
        if asked not in ("auto", taken):
            note(f"device.{what} {asked} is not to be had here: {taken} is taken")


def require_same_images(saved: SavedState, session: Session, steps_done: int, folder: Path) -> None:
    """Raise `SmallvitError` unless the last step's images, labels and draws would be the same again, and val and test
    are the same.
    """
    theirs = {"val images": saved.val_sha256, "test images": saved.test_sha256}
    ours = {"val images": session.val_sha256, "test images": session.test_sha256}
    if steps_done:
        theirs["train images or draws"] = saved.draws_sha256
        ours["train images or draws"] = draws_sha256(session, steps_done - 1)
    other = [what for what, sha256 in theirs.items() if sha256 != ours[what]]
    if other:
        raise SmallvitError(
            f"{folder} was begun with other {', other '.join(other)} than today's: the data set has changed, or an "
            "earlier smallvit drew them otherwise; put it back, or train anew with another --out"
        )


def draws_sha256(session: Session, step: int) -> str:
    """Return the sha256 of the whole global batch of a step as it is drawn: images, labels and augmentation."""
    train, indices = session.splits["train"], session.order.batch(step)
    draws = step_draws(session.config, step, indices, session.order.showings(step))
    found = hashlib.sha256()
    rows = indices.to(train.images.device)
    for tensor in (indices, train.images[rows], train.labels[rows], *draws.tensors()):
        found.update(tensor.cpu().numpy().tobytes())
    return found.hexdigest()


def _require_same_run(folder: Path, config: RunConfig, theirs: RunConfig) -> None:
    different = theirs.differences(config)
    if different:
        raise UsageError(
            f"{folder} holds another run ({'; '.join(different)}): name another folder with --out, start from its "
            f"weights with --fork {as_word(folder)}, or leave options out after --resume"
        )
