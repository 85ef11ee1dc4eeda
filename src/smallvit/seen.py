"""Which pictures a run's weights were trained on, also by the runs that it was forked off: hashes in its folder.

Only pictures of one's own have them (`Split.keys`); the data sets with a name hold out the same images in every run.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped

from smallvit.config import RunConfig
from smallvit.data.spec import SPECS
from smallvit.data.split import Split
from smallvit.data.store import Dataset
from smallvit.errors import SmallvitError
from smallvit.weights import read_tensors, save_tensors

SEEN = "seen.safetensors"
"""Its name in a run folder."""
Keys = Shaped[np.ndarray, " n"]
"""Of 16 bytes each, as `Split.keys` has them."""
_NAME, _BYTES = "keys", "S16"
NONE: Keys = np.array([], dtype=_BYTES)


def keep_seen(folder: Path, train: Split, before: Keys | None, *, forked: bool) -> None:
    """Write what a run sees of one's own, and what its weights had seen `before`, to its folder; no file where that is
    not known, nor where it is nothing and the run is no fork.
    """
    (folder / SEEN).unlink(missing_ok=True)  # of a run that did not come to begin there
    if before is None:
        return
    keys = before if train.keys is None else np.union1d(before, train.keys).astype(_BYTES)
    if forked or len(keys):
        save_tensors({_NAME: torch.from_numpy(keys.view(np.uint8).reshape(len(keys), 16))}, folder / SEEN)


def seen_by(folder: Path, config: RunConfig | None) -> Keys | None:
    """Return what the weights in a run folder were trained on; None where it is not known.

    Of a data set with a name that is no picture of one's own. `SmallvitError` for a file that was damaged.
    """
    if (folder / SEEN).exists():
        what = "the pictures that the run was trained on"
        keys = read_tensors(folder / SEEN, what).get(_NAME)
        if keys is None or keys.dtype != torch.uint8 or keys.shape[1:] != (16,):
            raise SmallvitError(f"{folder / SEEN} does not hold {what}: it is another program's")
        return np.ascontiguousarray(keys.numpy()).view(_BYTES).reshape(-1)
    named = config is not None and config.data.dataset in SPECS and config.fork is None
    return NONE if named else None


def seen_of(dataset: Dataset, seen: Keys | None) -> dict[str, int] | None:
    """Return how many pictures of val and test were seen, without copies of train's, of which other notes tell.

    None where that is not known: also where none of the pictures is one that was seen, so that they may be the same in
    another encoding.
    """
    keys = {name: split.keys for name, split in dataset.splits().items() if split.keys is not None}
    if seen is None or "train" not in keys:
        return None
    if len(seen) and not any(np.isin(each, seen).any() for each in keys.values()):
        return None
    return {
        name: int((np.isin(each, seen) & ~np.isin(each, keys["train"])).sum())
        for name, each in keys.items()
        if name != "train"
    }
