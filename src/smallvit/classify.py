"""What a finished run's model sees on pictures that it was not trained on.

Shapes: n pictures, S image size, C classes.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from smallvit.augment.pipeline import normalise
from smallvit.config import RunConfig
from smallvit.data.folder import find_images, passed_over, read_files, unreadable
from smallvit.data.spec import SPECS
from smallvit.errors import SmallvitError, UsageError
from smallvit.evaluate import predict
from smallvit.model.vit import VisionTransformer
from smallvit.record import RunRecord
from smallvit.run_folder import RECORD, record_of
from smallvit.weights import MODEL, load_weights


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One class that a picture may be of."""

    path: Path
    class_name: str
    probability: float
    """The model's softmax; as sure as the run's calibration error says."""


def classify(folder: Path, pictures: Sequence[Path], *, top: int = 1) -> list[Answer]:
    """Return the `top` likeliest classes of each picture, the likeliest first.

    `pictures` are image files, and folders, of which all images at any depth are taken; other files there are named on
    standard error. They are made as training images of a folder are: upright, RGB, the short side resized to the
    model's image size, the middle kept. The arithmetic is float32 on the CPU.

    Raises `SmallvitError` for a run that is not finished and for what cannot be read, `UsageError` for a path with no
    picture and for more classes than the run has.
    """
    record = record_of(folder)
    if top > len(record.class_names):
        raise UsageError(f"--top is {top}: the run has {len(record.class_names)} classes")
    mean, std = _moments(record, folder)
    paths = [path for given in pictures for path in _images(given)]
    config = record.run_config()
    size = config.model.image_size
    images = torch.from_numpy(read_files(paths, size, title="Decoding pictures")[0])
    model = _model(config, folder)
    logits = predict(lambda part: model(normalise(part, mean, std)), images, config.evaluate.batch_size)
    return [answer for path, row in zip(paths, logits, strict=True) for answer in _answers(path, row, record, top)]


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
    if not path.exists():
        raise UsageError(f"{path} is not there: name image files, or folders of them")
    return [path]


def _model(config: RunConfig, folder: Path) -> VisionTransformer:
    model = VisionTransformer(config.model, attention="sdpa", generator=torch.Generator().manual_seed(0))
    load_weights(model, folder / MODEL)
    return model.eval()


def _answers(path: Path, logits: Float[Tensor, " C"], record: RunRecord, top: int) -> list[Answer]:
    probabilities = logits.double().softmax(-1)
    return [
        Answer(path=path, class_name=record.class_names[index], probability=float(probabilities[index]))
        for index in probabilities.argsort(descending=True, stable=True)[:top].tolist()
    ]
