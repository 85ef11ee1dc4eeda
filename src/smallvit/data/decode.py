"""Encoded images to uint8 arrays, in threads, behind a progress bar; what Pillow may do and what it may not.

What becomes RGB: RGB as it is; grey, palette and black-and-white exactly; 16-bit grey by dividing its full range
(x / 257, rounded, never clipped; of 16-bit colour Pillow keeps the high byte); CMYK and YCbCr by Pillow's conversion;
transparency over white, as a browser page shows it. Anything else (float, 32-bit, Lab) has no one meaning and is
refused. Exif orientation is applied.

Shapes: n images, H height, W width.
"""

import io
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from smallvit.cores import usable_cores
from smallvit.errors import SmallvitError

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")

_CHUNK = 8
_MOST_THREADS = 16
"""Each holds a whole picture, of 24 megapixels say."""
_LOSSLESS = ("RGB", "L", "1", "P", "LA", "PA", "La", "RGBA", "RGBa")
# Pillow goes by content, not by name, and its EPS reader starts Ghostscript: only these formats are ever tried. TGA has
# no signature, and takes some icons for its own: it comes last.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "AVIF", "JPEG2000", "ICO", "TGA")
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


@cache
def formats() -> tuple[str, ...]:
    """Return the image formats that are read, as this Pillow was built, by Pillow's names."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


class BadImageError(SmallvitError):
    """An image that cannot be used; the message says why, the caller says where."""


def decode_all(
    items: Sequence[Item], decode: Callable[[Item], UInt8[np.ndarray, "H W 3"]], *, size: int, title: str
) -> UInt8[np.ndarray, "n 3 H W"]:
    """Return all items decoded, in order; the first failing item's error is raised.

    An error or an interrupt lets each thread end the item that it is at, and no more. On a terminal a progress bar runs
    on stderr under `title`.
    """
    images = np.empty((len(items), 3, size, size), dtype=np.uint8)
    ended = threading.Event()

    def fill(start: int) -> int:
        stop = min(start + _CHUNK, len(items))
        for i in range(start, stop):
            if ended.is_set():
                break
            images[i] = decode(items[i]).transpose(2, 0, 1)
        return stop - start

    # The filter is process-wide, so it is set here once and not in the threads.
    with (
        warnings.catch_warnings(),
        _progress(len(items)) as progress,
        ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as pool,
    ):
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        task = progress.add_task(title, total=len(items))
        try:
            for count in pool.map(fill, range(0, len(items), _CHUNK)):
                progress.advance(task, count)
        finally:
            ended.set()
    return images


def decode_files(
    paths: Sequence[Path], *, size: int, title: str, look: Callable[[Path, Image.Image], None] | None = None
) -> tuple[UInt8[np.ndarray, "n 3 H W"], dict[Path, str]]:
    """Return files' images, upright, as RGB and fitted to `size`, and what is wrong with those that cannot be used,
    which are black. `look` is called with each image at its full size.
    """
    broken: dict[Path, str] = {}

    def decode(path: Path) -> UInt8[np.ndarray, "H W 3"]:
        try:
            upright = decode_upright(path)
        except BadImageError as error:
            broken[path] = str(error)  # the error itself would keep the pixels
            return np.zeros((size, size, 3), dtype=np.uint8)
        if look is not None:
            look(path, upright)
        return fit_image(upright, size)

    return decode_all(paths, decode, size=size, title=title), broken


def _progress(count: int) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    words = TextColumn("{task.description}", markup=False)
    columns = (words, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not (count and sys.stderr.isatty()))


def decode_exact(data: bytes, size: int) -> UInt8[np.ndarray, "H W 3"]:
    """Return a `size` x `size` image of bytes; anything of another size, or not exactly RGB, is a BadImageError."""

    def convert(image: Image.Image) -> Image.Image:
        expected = f"expected a {size} x {size} RGB image"
        if image.size != (size, size):
            raise BadImageError(f"is {image.size[0]} x {image.size[1]} pixels; {expected}")
        if image.mode not in _LOSSLESS:
            raise BadImageError(f"has mode {image.mode}; {expected}")
        image.load()
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise BadImageError(f"has transparent pixels; {expected}")
        return image.convert("RGB")

    return np.asarray(_opened(io.BytesIO(data), convert))


def decode_upright(source: Path | str | io.BytesIO) -> Image.Image:
    """Return the image of a file, or of one in memory, at full size, upright, as RGB; BadImageError where there is
    none.
    """

    def convert(image: Image.Image) -> Image.Image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)

    return _opened(Path(source) if isinstance(source, str) else source, convert)


def fit_image(image: Image.Image, size: int) -> UInt8[np.ndarray, "H W 3"]:
    """Return the middle of an RGB image, its short side resized to `size` (bicubic)."""
    return np.asarray(ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB by the rules at the module's head; BadImageError where none applies."""
    sixteen = image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen:
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, layer).convert("RGB")
    if image.mode in (*_LOSSLESS, "CMYK", "YCbCr"):
        return image.convert("RGB")
    raise BadImageError(f"has mode {image.mode}; expected 8-bit or 16-bit grey, RGB, palette or CMYK")


def _opened(source: Path | io.BytesIO, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        _not_empty(source)
        with Image.open(source, formats=formats()) as image:
            return convert(image)
    except BadImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,}" if Image.MAX_IMAGE_PIXELS else "any"
        raise BadImageError(
            f"would unpack to more than {limit} pixels (a decompression bomb): make it smaller"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise BadImageError(f"is not an image in a known format ({', '.join(formats())})") from error
    except Exception as error:  # decoders of broken files raise almost anything: OSError, SyntaxError, struct.error
        if isinstance(error, OSError) and error.errno is not None:  # the file's, not a decoder's
            raise BadImageError(f"cannot be read ({error.strerror})") from error
        raise BadImageError(f"is truncated or broken ({' '.join(str(error).split())})") from error


def _not_empty(source: Path | io.BytesIO) -> None:
    if (len(source.getbuffer()) if isinstance(source, io.BytesIO) else source.stat().st_size) == 0:
        raise BadImageError("is empty (0 bytes); expected an image")
