"""Whether a fork's val and test were held out of what the weights that it starts from were trained on."""

from smallvit.config import RunConfig
from smallvit.data.split import Split, digest
from smallvit.data.store import Dataset, load_dataset
from smallvit.errors import UsageError
from smallvit.fork import Origin
from smallvit.seen import seen_of

MAY_BE_SEEN = {
    "val": "val may hold images that the weights to start from were trained on: it is not known to have been held out "
    "there; its accuracy, and the temperature that is fitted on it, are then too good",
    "test": "test may hold images that the weights to start from were trained on: it is not known to have been held "
    "out there; its accuracy is then too good",
}
"""What is to be told of a split."""


def require_unseen_test(origin: Origin | None, config: RunConfig, dataset: Dataset) -> None:
    """Raise `UsageError` where test is drawn, and holds images that the weights were trained on; where it is not known
    which those are, where it is drawn otherwise than for the run, of the same data, whose weights these are.

    Also for a fork that is started over without its `origin`, whose test may have been drawn from other images.
    """
    if dataset.spec.test_size:
        return
    if origin is None:
        if config.fork is not None and config.data.dataset == "folder":
            raise UsageError(
                "this fork has saved nothing yet, and its test is drawn from images that may be others by now: give "
                "its own command again, with --fork and --out"
            )
        return
    seen = seen_of(dataset, origin.seen)
    if seen is not None:
        if seen["test"]:
            raise UsageError(
                f"--fork {origin.folder}: {seen['test']:,} of the {len(dataset.test):,} pictures of test, which is "
                "drawn from all of them, were trained on there; keep what was held out there in a test/ of your own "
                "(docs/data.md, more pictures)"
            )
        return
    theirs = origin.config
    if theirs is None or origin.test_sha256 is None or not theirs.data.same_source(config.data):
        return
    dataset = _at_size_of(theirs, config, dataset)
    if digest(dataset.test) != origin.test_sha256:
        raise UsageError(
            f"--fork {origin.folder}: test is drawn from all images, and not as it was there, so those weights may "
            "have been trained on some of it; put images, data.test_fraction and data.split_seed back, or keep in a "
            "test/ of your own only images that they were not trained on"
        )


def may_be_seen(origin: Origin | None, config: RunConfig, dataset: Dataset) -> list[str]:
    """Return those of val and test on some of whose images the weights of `origin` may have been trained, by its run or
    one that this was forked off. Of a fork that is started over without its `origin` nothing is known.
    """
    seen = None if origin is None else seen_of(dataset, origin.seen)
    if seen is not None:
        return [name for name, count in seen.items() if count]
    open_test = config.data.dataset == "folder" or not dataset.spec.test_size  # may be another one, or is drawn
    unknown = [split for split, may_be in (("val", dataset.val is not None), ("test", open_test)) if may_be]
    if origin is None:
        return [] if config.fork is None else unknown
    theirs = origin.config
    if theirs is None or theirs.data.dataset != config.data.dataset:
        return unknown if theirs is None or theirs.fork is not None else []
    dataset = _at_size_of(theirs, config, dataset)
    seen = ["val"] if dataset.val is not None and _val_may_be_seen(origin, theirs, config, dataset.val) else []
    held = theirs.fork is None and origin.test_sha256 == digest(dataset.test)
    return seen if held or not open_test else [*seen, "test"]


def _val_may_be_seen(origin: Origin, theirs: RunConfig, config: RunConfig, val: Split) -> bool:
    if theirs.fork is not None or origin.trained_on_val:
        return True
    if origin.val_sha256 is not None:
        return origin.val_sha256 != digest(val)
    same = (theirs.data.val_fraction, theirs.data.split_seed) == (config.data.val_fraction, config.data.split_seed)
    return not (same and theirs.data.same_source(config.data))


def _at_size_of(theirs: RunConfig, config: RunConfig, dataset: Dataset) -> Dataset:
    """Return a config's data set with images of the size that another run has them in, for digests to be compared."""
    size = theirs.model.image_size
    return dataset if size == config.model.image_size else load_dataset(config.data, image_size=size)
