"""Reads test.safetensors of a run folder, checks it against the record, and makes pictures of the mistakes.

Shapes: n test images, C classes, m mistakes kept, S height and width in pixels.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from PIL import Image
from torch import Tensor

from smallvit.errors import SmallvitError
from smallvit.evaluate import confusion, probabilities
from smallvit.record import RunRecord
from smallvit.weights import read_tensors


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """The answers of a run to its test images, and pictures of the mistakes that it was surest of."""

    logits: Float[Tensor, "n C"]
    labels: Int64[Tensor, " n"]
    mistakes: Int64[Tensor, " m"]
    """Rows of the test split, the surest first."""
    pictures: UInt8[Tensor, "m 3 S S"]
    files: tuple[str, ...] | None
    """Of a folder's pictures: where they lie in it, n of them."""
    temperature: float
    """Of the run; 1 where it has none."""

    def probabilities(self, row: int) -> Float64[Tensor, " C"]:
        """Return the softmax of a row's logits at the temperature."""
        return probabilities(self.logits[row : row + 1], self.temperature)[0]

    def place(self, row: int) -> str:
        """Return in words which test image a row is."""
        return f"row {row}" if self.files is None else self.files[row]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A test image that the model got wrong."""

    index: int
    """Row of the test split."""
    place: str
    """The row in words, or the picture's file in its folder."""
    true: str
    predicted: str
    confidence: float
    """The model's probability of the predicted class, 0 to 1."""
    picture: str
    """A PNG as a data URI."""


def read_predictions(path: Path, record: RunRecord) -> Predictions:
    """Return what `path` keeps.

    Raises `SmallvitError` if the file is absent, cut short, or is not of the run that the record tells of.
    """
    tensors = _load(path)
    logits, labels = tensors["logits"], tensors["labels"]
    mistakes, pictures = tensors["mistakes"], tensors["mistake_images"]
    if not _belongs(logits, labels, record):
        raise SmallvitError(f"{path} is not of the run in record.json: its logits give other counts of right and wrong")
    wrong = (logits.argmax(-1) != labels).nonzero().flatten()
    if pictures.shape[:2] != (len(mistakes), 3) or not bool(torch.isin(mistakes, wrong).all()):
        raise SmallvitError(f"{path} holds mistakes that are none: make the run again")
    files = tensors.get("files")
    if files is not None and len(files) != len(labels):
        raise SmallvitError(f"{path} names {len(files)} files of {len(labels)} images: make the run again")
    names = None if files is None else tuple(bytes(row).rstrip(b"\0").decode(errors="replace") for row in files.numpy())
    return Predictions(
        logits=logits,
        labels=labels,
        mistakes=mistakes,
        pictures=pictures,
        files=names,
        temperature=record.temperature or 1.0,
    )


def mistakes_of(kept: Predictions, class_names: Sequence[str]) -> list[Mistake]:
    """Return the wrong answers of which there are pictures, the surest first."""
    classes = kept.logits.argmax(-1)
    return [
        Mistake(
            index=index,
            place=kept.place(index),
            true=class_names[int(kept.labels[index])],
            predicted=class_names[int(classes[index])],
            confidence=float(kept.probabilities(index).max()),
            picture=_picture_uri(image),
        )
        for index, image in zip(kept.mistakes.tolist(), kept.pictures, strict=True)
    ]


def _picture_uri(image: UInt8[Tensor, "3 S S"]) -> str:
    """Return a picture as a PNG in a data URI."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


_TENSORS = {
    "logits": (torch.float32, 2),
    "labels": (torch.int64, 1),
    "mistakes": (torch.int64, 1),
    "mistake_images": (torch.uint8, 4),
    "files": (torch.uint8, 2),
}


def _load(path: Path) -> dict[str, Tensor]:
    tensors = read_tensors(path, "predictions")
    for name in ("logits", "labels", "mistakes", "mistake_images"):
        if name not in tensors:
            raise SmallvitError(f"{path} has no {name}: expected logits, labels, mistakes and mistake_images")
    for name, (dtype, dims) in _TENSORS.items():
        if name in tensors and (tensors[name].dtype, tensors[name].ndim) != (dtype, dims):
            raise SmallvitError(f"{path} was edited: its {name} have not the type or shape that a run writes")
    return tensors


def _belongs(logits: Tensor, labels: Tensor, record: RunRecord) -> bool:
    """Whether the predictions give the record's counts; what the page shows of either is then of one run."""
    shape = (record.test.count, len(record.class_names))
    if tuple(logits.shape) != shape or tuple(labels.shape) != shape[:1]:
        return False
    if bool((labels < 0).any()) or bool((labels >= shape[1]).any()):
        return False
    matrix = confusion(logits, labels)
    return int(matrix.trace()) == record.test.correct and matrix.tolist() == record.test_confusion
