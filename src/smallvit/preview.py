"""A picture of what a recipe's augmentation does: training images, and several draws of each with their soft labels.

Shapes: B images (columns), D draws (rows below the originals), S image size, C classes.
"""

import os
import warnings
from pathlib import Path

import matplotlib
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from rich.cells import cell_len, set_cell_size
from torch import Tensor

from smallvit.checks import require_whole
from smallvit.config import RunConfig
from smallvit.data.loader import DeviceSplit, Order
from smallvit.data.store import load_dataset
from smallvit.device.choose import torch_kept
from smallvit.errors import SmallvitError, UsageError, line_of
from smallvit.files import expanded, replacing, undated
from smallvit.step_batch import augment_step, step_draws

SHOWN_SHARE = 0.1
"""Classes with less of a soft label than this are not written."""
MOST_LETTERS = 14
_NO_DATE: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_NO_GLYPH = "the picture's font lacks letters of some class names: an .svg shows them in the reader's fonts"


@torch_kept()
def show_augment(config: RunConfig, path: Path | str, *, num_images: int = 8, num_draws: int = 5) -> tuple[str, ...]:
    """Write the first images of a run as a PNG, SVG or PDF, by the suffix: originals above, each row
    below one step's draw for the same images. Return what is to be told of the data set.

    Raises `SmallvitError` where the file cannot be written, and `UsageError` for a name without such a suffix.
    """
    path = expanded(Path(path), "out")
    for name, count in (("num_images", num_images), ("num_draws", num_draws)):
        require_whole(name, count, 1)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"out is {path}: the name must end in .png, .svg or .pdf")
    dataset = load_dataset(config.data, image_size=config.model.image_size)
    spec, train = dataset.spec, DeviceSplit.of(dataset.train, "cpu")
    order = Order(len(train), batch_size=min(num_images, len(train)), passes_per_epoch=1, seed=config.seed)
    chosen = order.batch(0)
    images, labels = train.images[chosen], train.labels[chosen]
    rows = [([_pixels(image) for image in images], [_short(spec.class_names[label]) for label in labels.tolist()])]
    for step in range(num_draws):
        draws = step_draws(config, step, chosen, torch.full_like(chosen, step))
        augmented, targets = augment_step(config, spec, train, chosen, draws)
        pixels = _displayable(augmented, spec.mean, spec.std)
        rows.append(([_pixels(image) for image in pixels], [_caption(t, spec.class_names) for t in targets]))
    picture, place, kind = _figure(rows), Path(os.path.realpath(path)), path.suffix[1:].lower()
    # As in reports: text stays text in an .svg, for whose reader's fonts names in all scripts are.
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings(), undated():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        try:
            with replacing(place) as new:
                picture.savefig(new, dpi=110, format=kind, metadata=_NO_DATE.get(kind))
        except OSError as error:
            raise SmallvitError(line_of(error)) from None
    captions = "".join(caption for _, line in rows for caption in line)
    return dataset.notes if kind == "svg" or _has_glyphs(captions) else (*dataset.notes, _NO_GLYPH)


def _has_glyphs(text: str) -> bool:
    font = get_font(findfont(FontProperties()))
    return all(font.get_char_index(ord(letter)) for letter in text if letter.isprintable())


def _displayable(
    images: Float[Tensor, "B 3 S S"], mean: tuple[float, ...], std: tuple[float, ...]
) -> UInt8[Tensor, "B 3 S S"]:
    """Undo the normalisation; what lies outside of 0..255 (noise of erasing) is cut."""
    channels = torch.tensor((mean, std))[:, :, None, None]
    return ((images * channels[1] + channels[0]) * 255).round().clamp(0, 255).to(torch.uint8)


def _pixels(image: UInt8[Tensor, "3 S S"]) -> Tensor:
    return image.permute(1, 2, 0)


def _caption(target: Float[Tensor, " C"], class_names: tuple[str, ...]) -> str:
    share, index = target.sort(descending=True)
    pairs = zip(share.tolist(), index.tolist(), strict=True)
    return "\n".join(f"{_short(class_names[i])}: {s:.2f}" for s, i in list(pairs)[:2] if s >= SHOWN_SHARE)


def _short(name: str) -> str:
    """Return a class's name as far as it fits above a picture."""
    if cell_len(name) <= MOST_LETTERS:
        return name
    return f"{set_cell_size(name, MOST_LETTERS - 1).rstrip()}\N{HORIZONTAL ELLIPSIS}"


def _figure(rows: list[tuple[list[Tensor], list[str]]]) -> Figure:
    figure = Figure(figsize=(1.25 * len(rows[0][0]), 1.55 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0][0]), squeeze=False)
    for line, (images, captions) in zip(axes, rows, strict=True):
        for ax, image, caption in zip(line, images, captions, strict=True):
            ax.imshow(image.numpy(), interpolation="nearest")
            ax.set_title(caption, fontsize=8, parse_math=False)
            ax.set_axis_off()
    return figure
