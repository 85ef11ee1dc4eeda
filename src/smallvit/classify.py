"""What a finished run's model sees on pictures that it was not trained on: files, or images in memory.

Shapes: n pictures, S image size, C classes.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from smallvit.augment.pipeline import normalise
from smallvit.checks import require, require_whole
from smallvit.console import printable
from smallvit.data.decode_many import decode_files
from smallvit.data.listing import NAMED_BROKEN, find_images, passed_over, unreadable
from smallvit.data.spec import SPECS
from smallvit.device.choose import torch_kept
from smallvit.errors import SmallvitError, UsageError
from smallvit.evaluate import predict, probabilities
from smallvit.files import exists, expanded
from smallvit.model.vit import VisionTransformer
from smallvit.record import RunRecord
from smallvit.run_folder import RECORD, record_of
from smallvit.weights import Which, load_run_weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A finished run's model, in float32 on the CPU, and what its images are normalised with."""

    model: VisionTransformer
    """In evaluation mode; it takes images that `smallvit.augment.normalise` made, and returns logits."""
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    """Of the run's training pixels, red, green and blue, in units of 0..1."""
    std: tuple[float, float, float]
    batch_size: int
    temperature: float
    """What logits are divided by for probabilities as sure as they are right on val; 1 where the run held out none, or
    is of before there were temperatures, and for weights that are not the last."""

    def __call__(self, images: UInt8[Tensor, "n 3 S S"]) -> Float[Tensor, "n C"]:
        """Return the logits of uint8 images of the model's size; `UsageError` for any other."""
        size = self.model.config.image_size
        expected = f"it must be a uint8 tensor of shape (images, 3, {size}, {size}), with at least one image"
        is_tensor = isinstance(images, Tensor)  # pyright: ignore[reportUnnecessaryIsInstance]
        what = f"{tuple(images.shape)} of {images.dtype}" if is_tensor else type(images).__name__
        fits = is_tensor and images.dtype == torch.uint8 and images.shape[1:] == (3, size, size) and len(images) > 0
        require(fits, "images", what, expected)
        with torch.autocast(next(self.model.parameters()).device.type, enabled=False):
            return predict(lambda part: self.model(normalise(part, self.mean, self.std)), images, self.batch_size)

    def probabilities(self, images: UInt8[Tensor, "n 3 S S"]) -> Float64[Tensor, "n C"]:
        """Return the softmax of the logits at the temperature, in float64."""
        return probabilities(self(images), self.temperature)


def load_classifier(folder: Path | str, *, weights: Which = "last") -> Classifier:
    """Return the model of a finished run, of its last epoch or, where they were kept, with the weights that were best
    on val; the temperature is of the last. `SmallvitError` says what the folder is instead.
    """
    folder = expanded(Path(folder), "folder")
    return classifier_of(record_of(folder), folder, weights)


@torch_kept()
def classifier_of(record: RunRecord, folder: Path, weights: Which) -> Classifier:
    """Return what `load_classifier` does, of a record that was read."""
    mean, std = _moments(record, folder)
    config = record.run_config()
    model = VisionTransformer(config.model, attention="sdpa", generator=torch.Generator().manual_seed(0))
    load_run_weights(model, folder, weights)
    return Classifier(
        model=model.eval(),
        class_names=tuple(record.class_names),
        mean=mean,
        std=std,
        batch_size=config.evaluate.batch_size,
        temperature=temperature_of(record, weights) or 1.0,
    )


def temperature_of(record: RunRecord, weights: Which) -> float | None:
    """Return the temperature of a run's weights, if it has one: the record's is that of the last."""
    return record.temperature if weights == "last" else None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One class that a picture may be of."""

    path: Path
    class_name: str
    probability: float
    """As `Classifier.probabilities` has it."""


def classify(
    folder: Path | str, pictures: Path | str | Sequence[Path | str], *, top: int = 1, weights: Which = "last"
) -> list[Answer]:
    """Return the `top` likeliest classes of each picture, the likeliest first; `weights` as `load_classifier` has it.

    `pictures` are image files, and folders, of which all images at any depth are taken, or one of these; files there
    that are no images, or broken ones, are named on standard error. They are made as training images of a folder are:
    upright, RGB, the short side resized to the model's image size, the middle kept. The arithmetic is float32 on the
    CPU.

    Raises `SmallvitError` for a run that is not finished and for what cannot be read, `UsageError` for a path with no
    picture and for more classes than the run has.
    """
    pictures = list(pictures) if isinstance(pictures, Sequence) and not isinstance(pictures, str) else [pictures]
    given: list[object] = list(pictures)  # a caller may bring an image
    shown = ", ".join(str(each) if isinstance(each, Path | str) else type(each).__name__ for each in given)
    named = len(given) > 0 and all(isinstance(each, Path | str) and str(each) for each in given)
    require(named, "pictures", shown, "name image files, or folders of them")
    require_whole("top", top, 1)
    classifier = load_classifier(folder, weights=weights)
    names = classifier.class_names
    if top > len(names):
        raise UsageError(f"top is {top}: the run has {len(names)} classes")
    # A file may begin with ~ as well: a shell's `*.png` names it so.
    pictures = [path if (path := Path(each)).exists() else expanded(path, "pictures") for each in pictures]
    paths = [path for each in pictures for path in _images(each)]
    size = classifier.model.config.image_size
    found = decode_files(paths, size=size, title="Decoding pictures")
    for path, why in found.broken.items():
        if len(found.broken) == len(paths) or path in pictures:
            raise SmallvitError(f"{path}: {why}")
    for path, why in islice(found.broken.items(), NAMED_BROKEN):
        print(f"note: passed over {printable(str(path))}: {why}", file=sys.stderr)
    if (more := len(found.broken) - NAMED_BROKEN) > 0:
        print(f"note: passed over {more} more broken file{'s' if more > 1 else ''}", file=sys.stderr)
    for note in found.notes():
        print(f"note: {note}", file=sys.stderr)
    rows = zip(paths, classifier.probabilities(torch.from_numpy(found.images)), strict=True)
    return [answer for path, row in rows if path not in found.broken for answer in _answers(path, row, names, top)]


def _moments(record: RunRecord, folder: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    known = SPECS.get(record.run_config().data.dataset)
    if record.channel_mean is not None and record.channel_std is not None:
        (red, green, blue), (r, g, b) = record.channel_mean, record.channel_std
        return (red, green, blue), (r, g, b)
    if known is None:
        raise SmallvitError(
            f"{folder / RECORD} is of a version that did not keep how images are normalised: train anew"
        )
    return known.mean, known.std


def _images(path: Path) -> list[Path]:
    if path.is_dir():
        images, strays = find_images(path)
        if not images:
            raise UsageError(f"{path} has no images in it{unreadable(strays)}")
        if strays:
            print(f"note: {passed_over(strays, 'files that are not images', path)}", file=sys.stderr)
        return images
    if not exists(path):
        raise UsageError(f"{path} is not there: name image files, or folders of them")
    return [path]


def _answers(path: Path, probabilities: Float64[Tensor, " C"], class_names: Sequence[str], top: int) -> list[Answer]:
    return [
        Answer(path=path, class_name=class_names[index], probability=float(probabilities[index]))
        for index in map(int, probabilities.argsort(descending=True, stable=True)[:top])
    ]
