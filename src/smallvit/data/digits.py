"""The embedded data set: scikit-learn's copy of the UCI optical digits (see files/ATTRIBUTION.txt)."""

from importlib import resources

import numpy as np

from smallvit.data.spec import DatasetSpec
from smallvit.data.split import Decoded, Split, canonical


def read_digits(spec: DatasetSpec) -> Decoded:
    """Return the 1,797 digits as 8 x 8 grey RGB images in canonical order, their ink 0..16 scaled to 0..255."""
    with resources.files("smallvit.data").joinpath("files/digits.npz").open("rb") as file, np.load(file) as arrays:
        ink, labels = arrays["images"], arrays["labels"]
    grey = np.rint(ink * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[:, None], 3, axis=1)
    train = canonical(Split(images=images, labels=labels.astype(np.int64)))
    return Decoded(train=train, val=None, test=None, class_names=spec.class_names)
