"""What a run that is forked off another starts from: `smallvit train --fork FOLDER`."""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from smallvit.config import RunConfig
from smallvit.console import composed, first_few
from smallvit.data.spec import SPECS
from smallvit.errors import SmallvitError, UsageError, refuse_unreadable
from smallvit.files import exists, write_atomically
from smallvit.model.config import ModelConfig
from smallvit.model.embed import resample_positions
from smallvit.record import RunRecord
from smallvit.run_folder import CHECKPOINTS, RECORD
from smallvit.seen import Keys, seen_by
from smallvit.train.average import AVERAGE
from smallvit.train.checkpoint import load_newest
from smallvit.train.checkpoint_format import tensor_bytes
from smallvit.weights import MODEL, read_tensors

_LAST_LAYER = ("head.weight", "head.bias", "head.fc2.")
"""What the names of its tensors begin with; of a head that is an MLP the hidden layer stays."""
_POSITIONS = "pos_embed"
_CLASS_NAMES = "class_names"
_RUN = "run"


@dataclass(frozen=True, kw_only=True, eq=False)
class Origin:
    """The run that another is forked off."""

    folder: Path
    weights: dict[str, Tensor]
    """The average of them, where there is one."""
    config: RunConfig | None = None
    """None where the folder holds weights alone."""
    class_names: tuple[str, ...] | None = None
    """None where they are not known: then, too, and of an unfinished run on a folder of images."""
    test_sha256: str | None = None
    """Digest of the test images; None where it is not known."""
    val_sha256: str | None = None
    """Of those of val, likewise."""
    trained_on_val: bool = False
    """Whether it held out no val."""
    seen: Keys | None = None
    """Pictures that the weights were trained on; None where they are not known."""
    passed_over: tuple[str, ...] = ()
    """Newer checkpoints that could not be read, and why."""


def read_origin(folder: Path) -> Origin:
    """Return a finished run's weights, or those of an unfinished one's newest whole checkpoint, and what it was.

    Raises `UsageError` for a folder with neither, `SmallvitError` for weights that cannot be read.
    """
    try:
        finished = exists(folder / RECORD)
    except OSError as error:
        refuse_unreadable(error)
    checkpoint, damaged = (None, []) if finished else load_newest(folder / CHECKPOINTS)
    if checkpoint is not None:
        weights, state = checkpoint.tensors.get(AVERAGE) or checkpoint.tensors["model"], checkpoint.state
        origin = Origin(folder=folder, weights=weights, passed_over=tuple(map(str, damaged)))
        with suppress(SmallvitError):  # of a version that this one cannot read: the weights may do all the same
            config = RunConfig.from_json(state.get("config"))
            spec = SPECS.get(config.data.dataset)
            return replace(
                origin,
                config=config,
                class_names=None if spec is None else spec.class_names,
                test_sha256=state.get("test_sha256"),
                val_sha256=state.get("val_sha256"),
                trained_on_val="val_sha256" in state and state["val_sha256"] is None,
                seen=seen_by(folder, config),
            )
        return replace(origin, seen=seen_by(folder, None))
    if not exists(folder / MODEL):
        raise UsageError(f"{folder} holds neither {MODEL} nor a whole checkpoint to start from")
    weights = read_tensors(folder / MODEL, "weights")
    with suppress(SmallvitError):
        record = RunRecord.load(folder / RECORD)
        config = record.run_config()
        return Origin(
            folder=folder,
            weights=weights,
            config=config,
            seen=seen_by(folder, config),
            class_names=tuple(record.class_names),
            test_sha256=record.test_sha256,
            val_sha256=record.val_sha256,
            trained_on_val=record.val is None,
        )
    return Origin(folder=folder, weights=weights, seen=seen_by(folder, None))


def other_model(origin: Origin, config: RunConfig) -> list[str]:
    """Return what the model of `origin` has otherwise than the config's, as far as it is known."""
    found = [] if origin.config is None else origin.config.differences(config)
    return [each for each in found if each.startswith("model.")]


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """Return the sha256 that a fork's config names of the weights that it starts from."""
    return hashlib.sha256(tensor_bytes(weights)).hexdigest()


def keep_weights(origin: Origin, path: Path) -> None:
    """Write what a fork starts from, which classes its last layer is of, and which run that was, to a file."""
    names = None if origin.class_names is None else json.dumps(origin.class_names)
    told = {key: text for key, text in ((_CLASS_NAMES, names), (_RUN, _run_of(origin))) if text is not None}
    write_atomically(path, tensor_bytes(origin.weights, told or None))


def _told(path: Path) -> dict[str, str]:
    """Return what `keep_weights` wrote beside the weights."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def are_of(path: Path, origin: Origin) -> bool:
    """Return whether what `keep_weights` wrote is of the run of `origin`, whose weights may be others by now."""
    run = _run_of(origin)
    if run is None or not exists(path):
        return False
    with suppress(SafetensorError):
        return _told(path).get(_RUN) == run
    return False


def _run_of(origin: Origin) -> str | None:
    """Return what tells a run from others, of the same config on other pictures as well; None where it is not known."""
    if origin.config is None or origin.test_sha256 is None:
        return None
    return f"{origin.config.digest()} {origin.test_sha256}"


def kept_weights(path: Path, config: RunConfig) -> Origin:
    """Return what `keep_weights` wrote; `SmallvitError` for a file that is not the one that the config names."""
    weights = read_tensors(path, "weights")
    if weights_sha256(weights) != config.fork:
        raise SmallvitError(f"{path} is not what this run was forked off, or was damaged: start the fork anew")
    names = _told(path).get(_CLASS_NAMES)
    class_names = None if names is None else tuple(json.loads(names))
    return Origin(folder=path.parent, weights=weights, class_names=class_names, seen=seen_by(path.parent, None))


def take_weights(model: nn.Module, origin: Origin, config: RunConfig, class_names: tuple[str, ...]) -> list[str]:
    """Give a model the weights of `origin`, and return notes on what it does not have from there: of the last layer the
    rows of classes that are new, and learned positions as they are, where its images are of another size.

    `UsageError` says why they do not fit.
    """
    tensors, own = origin.weights, model.state_dict()
    class_names = tuple(map(composed, class_names))
    theirs, num_known = tuple(map(composed, origin.class_names or class_names)), len(class_names)
    if theirs != class_names:
        last_layer, num_known = _last_layer(tensors, own, theirs, class_names)
        tensors = tensors | last_layer
    if config.model.position == "sincos":  # they are fixed, whatever is at their place in the file
        tensors = {**tensors, _POSITIONS: own[_POSITIONS]}
    resampled = _for_image_size(tensors, config.model)
    tensors = tensors | resampled
    others = [name for name in own if name not in tensors or own[name].shape != tensors[name].shape]
    new_head = bool(others) and all(
        name.startswith(_LAST_LAYER) and (name not in tensors or own[name].shape[1:] == tensors[name].shape[1:])
        for name in others
    )
    if new_head:
        tensors |= {name: own[name] for name in others}
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        differing = "; ".join(other_model(origin, config)) or first_few(_other_tensors(tensors, own))
        raise UsageError(f"--fork {origin.folder}: its weights are another model's: {differing}") from None
    new_head = new_head or num_known == 0
    notes = {
        "the last layer is new: the weights to start from are of other classes": new_head,
        f"the last layer knows {num_known} of the {len(class_names)} classes by the weights to start from, of "
        f"{len(theirs)}": theirs != class_names and not new_head,
        "the positions are interpolated: the weights to start from are of images of another size": bool(resampled),
    }
    return [note for note, applies in notes.items() if applies]


def _other_tensors(tensors: dict[str, Tensor], own: dict[str, Tensor]) -> Iterator[str]:
    """Yield what a file has otherwise than a model's own tensors."""
    for name in {**own, **tensors}:
        if name not in tensors:
            yield f"{name} is missing"
        elif name not in own:
            yield f"{name} is not one of this model"
        elif tensors[name].shape != own[name].shape:
            yield f"{name} is {list(tensors[name].shape)}, not {list(own[name].shape)}"


def _last_layer(
    tensors: dict[str, Tensor], own: dict[str, Tensor], theirs: tuple[str, ...], class_names: tuple[str, ...]
) -> tuple[dict[str, Tensor], int]:
    """Return a model's last layer, `own`, with the rows of those classes that another's, in `tensors`, is also of, and
    how many these are; none where that one reads something else.
    """
    known = [name for name in class_names if name in theirs]
    rows, their_rows = ([names.index(name) for name in known] for names in (class_names, theirs))
    last = {name: tensor.clone() for name, tensor in own.items() if name.startswith(_LAST_LAYER)}
    fits = all(name in tensors and tensors[name].shape == (len(theirs), *last[name].shape[1:]) for name in last)
    for name, tensor in last.items() if fits else ():
        tensor[rows] = tensors[name][their_rows].to(tensor.device)
    return last, len(known) if fits else 0


def _for_image_size(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return the learned positions of a model of images of another size, where they can be made of the tensors'."""
    theirs = tensors.get(_POSITIONS)
    if config.position != "learned" or theirs is None or theirs.ndim != 3:
        return {}
    num_patches = theirs.shape[1] - config.num_prefix_tokens
    if num_patches < 1 or math.isqrt(num_patches) ** 2 != num_patches or theirs.shape[1] == config.num_tokens:
        return {}
    grid_size = config.image_size // config.patch_size
    return {_POSITIONS: resample_positions(theirs, grid_size, config.num_prefix_tokens)}
