"""Reads test.safetensors of a run folder, checks it against the record, and makes pictures of the mistakes.

Shapes: n test images, C classes, m mistakes kept, S height and width in pixels.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smallvit.errors import SmallvitError
from smallvit.evaluate import confusion
from smallvit.record import RunRecord


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A test image that the model got wrong."""

    index: int
    """Row of the test split."""
    true: str
    predicted: str
    confidence: float
    """The model's probability of the predicted class, 0 to 1."""
    picture: str
    """A PNG as a data URI."""


def read_mistakes(path: Path, record: RunRecord) -> list[Mistake]:
    """Return the wrong answers that `path` keeps, the surest first.

    Raises `SmallvitError` if the file is absent, cut short, or is not of the run that the record tells of.
    """
    tensors = _load(path)
    logits, labels = tensors["logits"], tensors["labels"]
    indices, images = tensors["mistakes"], tensors["mistake_images"]
    if not _belongs(logits, labels, record):
        raise SmallvitError(f"{path} is not of the run in record.json: its logits give other counts of right and wrong")
    classes = logits.argmax(-1)
    if images.shape[:2] != (len(indices), 3) or bool((classes[indices] == labels[indices]).any()):
        raise SmallvitError(f"{path} holds mistakes that are none: make the run again")
    probabilities = logits.double().softmax(-1)
    return [
        Mistake(
            index=index,
            true=record.class_names[int(labels[index])],
            predicted=record.class_names[int(classes[index])],
            confidence=float(probabilities[index].max()),
            picture=_data_uri(image),
        )
        for index, image in zip(indices.tolist(), images, strict=True)
    ]


def _load(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SmallvitError(f"{path} is not a readable file of predictions: {error}") from None
    for name in ("logits", "labels", "mistakes", "mistake_images"):
        if name not in tensors:
            raise SmallvitError(f"{path} has no {name}: expected logits, labels, mistakes and mistake_images")
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


def _data_uri(image: UInt8[Tensor, "3 S S"]) -> str:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
