"""One whole run: `run(config, folder) -> RunRecord` wires data, augmentation, model, training and evaluation.

The run folder holds config.json, metrics.jsonl (as the run goes), checkpoints, of one's own pictures hashes of those
that the run is trained on (seen.safetensors), of a fork the weights that it starts from (fork.safetensors), and at the
end those best on val if they are kept (best.safetensors), model.safetensors (the weights of the last epoch, or the
average that was measured), test.safetensors (logits, labels, the files of a folder's pictures, and the surest mistakes
as pictures) and record.json; its page is the report's. A run folder without record.json is an unfinished run, which
goes on where its newest whole checkpoint left it.
"""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from smallvit.checks import require_number
from smallvit.config import RunConfig
from smallvit.console import is_live, say
from smallvit.data.split import digest
from smallvit.data.store import Dataset, load_dataset
from smallvit.device.choose import torch_kept
from smallvit.errors import SmallvitError, UsageError, line_of
from smallvit.files import expanded, write_json
from smallvit.fork import (
    Origin,
    are_of,
    keep_weights,
    kept_weights,
    other_model,
    read_origin,
    take_weights,
    weights_sha256,
)
from smallvit.held_out import MAY_BE_SEEN, may_be_seen, require_unseen_test
from smallvit.lock import require_held
from smallvit.notes import notes_on
from smallvit.outcome import finished_record, predictions
from smallvit.record import RunRecord, versions
from smallvit.resume import (
    SavedState,
    find_checkpoint,
    note_not_to_be_had,
    note_other_arithmetic,
    require_same_images,
    share_checkpoint,
)
from smallvit.run_folder import (
    CONFIG,
    FORKED_WEIGHTS,
    PREDICTIONS,
    RECORD,
    claimed,
    delete_checkpoints,
    delete_run,
    require_own,
    require_unfinished,
    resume_command,
)
from smallvit.seen import NONE, keep_seen
from smallvit.session import Session
from smallvit.stop import Stop
from smallvit.train.checkpoint_format import Checkpoint
from smallvit.train.distributed import RankLostError, World
from smallvit.train.rendezvous import are_begun_again, join
from smallvit.training import Training
from smallvit.weights import BEST, MODEL, save_tensors

TIMEOUT_SECONDS = 60.0
"""How long a process of several waits for the others before it ends the run."""


def run(
    config: RunConfig,
    folder: Path | str,
    *,
    console: Console | None = None,
    max_seconds: float | None = None,
    fork: Path | str | None = None,
    start_over: bool = False,
    repeats: RunRecord | None = None,
) -> RunRecord:
    """Train and measure what `config` says, write it all to `folder`, and return the record.

    An unfinished run of the same config in `folder` goes on, unless `start_over` deletes it (a finished one, too).
    `fork` is a run folder whose weights to start from, `repeats` the record of a run that this one is to repeat: where
    it was computed in another arithmetic, a note says so. After about `max_seconds`, or at SIGINT or SIGTERM, the run
    saves and raises `InterruptedRunError`. Several processes that torchrun started share the batches.

    Raises `SmallvitError` (and `UsageError`) for what the user can mend: data that is not there, a folder that already
    holds a finished or another run or lies among a folder's images, a loss that is no longer a number, a full disk.
    """
    if start_over and fork is None and config.fork is not None:
        raise UsageError("this run is a fork: to start over, name the run with the weights that it starts from (fork)")
    versions()  # of the source as it is now, which may be edited while this runs
    if max_seconds is not None:
        require_number("max_seconds", max_seconds, least=0)
        if are_begun_again():
            raise UsageError(
                "--max-seconds ends a run in time, and torchrun --max-restarts begins it again: leave one out"
            )
    stop, folder = Stop(max_seconds), expanded(Path(folder), "folder")
    config.data.require_beside("--out", folder)
    if config.data.root is not None:  # to be found again from another working directory
        root = expanded(config.data.root, "data.root").absolute()
        config = replace(config, data=replace(config.data, root=root))
    if config.data.cache is not None:
        cache = expanded(config.data.cache, "data.cache").absolute()
        config = replace(config, data=replace(config.data, cache=cache))
    # An error in training lets go of signals last of all: torchrun's SIGTERM, when a rank is lost, is not to cut off
    # what the others say of it.
    with ExitStack() as catching, join(timeout_seconds=TIMEOUT_SECONDS) as world, torch_kept():
        console = console if console and world.is_main else Console(quiet=True)
        origin = None if fork is None else read_origin(expanded(Path(fork), "fork"))
        if origin is not None:
            config = replace(config, fork=weights_sha256(origin.weights))
        asked = _Asked(folder=folder, origin=origin, start_over=start_over, repeats=repeats)
        with claimed(folder, partial(_note, console)) if world.is_main else nullcontext():
            try:
                training = _prepared(config, asked, world, stop, console)
            except OSError as error:
                raise SmallvitError(line_of(error)) from error
            catching.enter_context(stop)
            record = _trained(training, console)
            catching.close()  # all is written: a signal ends the waiting for other ranks
            with suppress(RankLostError) if world.is_main else nullcontext():  # all is written
                world.barrier()
            return record


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a run is asked for beside its config, as `run` has it."""

    folder: Path
    origin: Origin | None
    start_over: bool
    repeats: RunRecord | None


def _prepared(config: RunConfig, asked: _Asked, world: World, stop: Stop, console: Console) -> Training:
    """Return the training, ready to take its first step or the next one, with its folder written so far."""
    folder, origin, note = asked.folder, asked.origin, partial(_note, console)
    goes_on = world.is_main and not asked.start_over
    if goes_on:
        require_unfinished(folder)
    if world.is_main:
        require_own(folder)
    if origin is not None:
        if goes_on:
            origin, config = _as_begun(origin, config, folder, note)
        config = replace(config, fork=world.broadcast_object(config.fork))
        asked = replace(asked, origin=origin)
    dataset = load_dataset(config.data, image_size=config.model.image_size)
    if origin is not None:
        for problem in origin.passed_over:
            note(f"--fork {origin.folder}: passed over {problem}")
        if differing := other_model(origin, config):
            note(f"the weights to start from are of another model: {'; '.join(differing)}")
    world.barrier()  # patient, where one machine still downloads
    require_same_everywhere(world, dataset)
    for text in notes_on(config, dataset):
        note(text)
    config = config.resolve(dataset.spec.num_classes)
    found = share_checkpoint(world, find_checkpoint(folder, config, note) if goes_on else None)
    if not found:
        require_unseen_test(origin, config, dataset)
    seen = found[1].may_be_seen if found else may_be_seen(origin, config, dataset)
    for split in seen:
        note(MAY_BE_SEEN[split])
    measuring = "making ready: what is fastest here is measured once"
    with console.status(measuring) if is_live(console) else nullcontext():
        session = Session(config, dataset, world, found[1].choices if found else None)
    say(console, f"{config.recipe} on {_sizes(dataset)}\n{session.choices}")
    if world.is_main:
        require_held(folder)  # all that takes long before the first step is done
    if not found and asked.repeats is not None and (other := asked.repeats.other_arithmetic(session.choices)):
        note(other)
    if not found and world.is_main:
        _begin(session, asked, note)
    training = Training(session, folder, stop, may_be_seen=seen)
    if found:
        _go_on(training, *found, note)
        say(console, f"going on after step {training.steps_done:,} of {training.total_steps:,}")
    if world.is_main:
        write_json(folder / CONFIG, config.to_json())
    return training


def _as_begun(origin: Origin, config: RunConfig, folder: Path, note: Callable[[str], None]) -> tuple[Origin, RunConfig]:
    """Return them with the weights that an unfinished fork in `folder` began with, where these are not those of now:
    the origin, the same run, may have been trained on since.
    """
    if not (folder / CONFIG).exists():
        return origin, config
    begun = RunConfig.load(folder / CONFIG)
    if begun.fork in (None, config.fork) or not are_of(folder / FORKED_WEIGHTS, origin):
        return origin, config
    kept = kept_weights(folder / FORKED_WEIGHTS, begun)
    note(f"--fork {origin.folder}: has other weights by now; the run goes on that began with those of then")
    return replace(origin, weights=kept.weights, class_names=kept.class_names), replace(config, fork=begun.fork)


def require_same_everywhere(world: World, dataset: Dataset) -> None:
    """Raise `SmallvitError` on every rank where one has other images than rank 0: each takes its part of a batch by
    number.
    """
    if world.size == 1:
        return
    own = {name: digest(split) for name, split in dataset.splits().items()}
    own["classes"] = "\n".join(dataset.spec.class_names)
    theirs = world.broadcast_object(own)
    if world.any(own != theirs):
        different = [name for name in {**own, **theirs} if own.get(name) != theirs.get(name)]
        which = (
            f"{', '.join(different)} of this process are not those of the first" if different else "those of another"
        )
        raise SmallvitError(f"the processes have other images: {which}; give all of them the same data.root's content")


def _begin(session: Session, asked: _Asked, note: Callable[[str], None]) -> None:
    """Give a run that is a fork the weights that it starts from, and its folder what it is to know of them later."""
    config, dataset, start = session.config, session.dataset, None
    folder, origin = asked.folder, asked.origin
    if config.fork is not None:
        start = origin or kept_weights(folder / FORKED_WEIGHTS, config)
        for text in take_weights(session.model, start, config, dataset.spec.class_names):
            note(text)
        session.average.measured.load_state_dict(session.model.state_dict())
    if asked.start_over:
        delete_run(folder)
    keep_seen(folder, dataset.train, NONE if start is None else start.seen, forked=start is not None)
    if origin is not None:
        keep_weights(origin, folder / FORKED_WEIGHTS)


def _go_on(training: Training, checkpoint: Checkpoint, saved: SavedState, note: Callable[[str], None]) -> None:
    """Let a run go on from its newest checkpoint, if its images are still those that it had."""
    session = training.session
    note_not_to_be_had(session.config.device, session.choices, note)
    note_other_arithmetic(saved, session.choices, session.world.size, note)
    require_same_images(saved, session, checkpoint.step, training.folder)
    training.go_on_from(checkpoint, saved.gathered)
    if session.config.checkpoint.best and not training.best and any(point.val for point in saved.gathered.curve):
        note("checkpoint.best was off so far: weights are kept from the next measurement that is the best of all")


def _note(console: Console, text: str) -> None:
    say(console, f"note: {text}")


def _trained(training: Training, console: Console) -> RunRecord:
    """Train to the last epoch, write what a finished run leaves, and return its record; an `OSError` becomes a
    `SmallvitError` that says how to go on.
    """
    folder = training.folder
    try:
        training.run(console)
        record = finished_record(training)
        if training.world.is_main:
            _finish(training, record)
    except OSError as error:
        where, command = error.filename or folder, resume_command(folder)
        raise SmallvitError(f"{where}: {error.strerror or error}; when that is mended, to go on: {command}") from None
    return record


def _finish(training: Training, record: RunRecord) -> None:
    """Write weights, predictions and then the record, with which the run is finished."""
    session, folder = training.session, training.folder
    require_held(folder)
    save_tensors(session.average.measured.state_dict(), folder / MODEL)
    if training.best:
        save_tensors(training.best, folder / BEST)
    save_tensors(predictions(training.logits["test"], session, record.temperature), folder / PREDICTIONS)
    record.save(folder / RECORD)
    delete_checkpoints(folder, ignore_errors=True)


def _sizes(dataset: Dataset) -> str:
    parts = [f"{len(split):,} {name}" for name, split in dataset.splits().items()]
    size = dataset.test.images.shape[-1]
    classes = f"{dataset.spec.num_classes} classes; " if dataset.spec.name == "folder" else ""
    return f"{dataset.spec.name} ({classes}{', '.join(parts)} images of {size} x {size})"
