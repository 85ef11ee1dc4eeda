"""An encoded image to pixels: what Pillow may do and what it may not.

What becomes RGB: RGB as it is; grey, palette and black-and-white exactly; 16-bit grey by dividing its full range
(x / 257, rounded, never clipped; of 16-bit colour Pillow keeps the high byte); CMYK and YCbCr by Pillow's conversion;
transparency over white, as a browser page shows it. Anything else (float, 32-bit, Lab) has no one meaning and is
refused. Exif orientation is applied, colour profiles are not. What is lost on the way is told: of several frames all
but the first, most levels of a dark 16-bit picture, a fourth band, most of a long picture.

Shapes: H height, W width.
"""

import io
import math
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, TiffImagePlugin

from smallvit.errors import SmallvitError

_LOSSLESS = ("RGB", "L", "1", "P", "LA", "PA", "La", "RGBA", "RGBa")
# Pillow goes by content, not by name, and its EPS reader starts Ghostscript: only these formats are ever tried. TGA has
# no signature, and takes some icons for its own: it comes last.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "AVIF", "JPEG2000", "ICO", "TGA")
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_FRAMED = ("GIF", "TIFF", "WEBP", "PNG", "AVIF")
"""Formats of which further frames are pictures; in a JPEG they are its previews."""
_PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES = 262, 277, 338
"""Tags of TIFF."""
FRAMES = "have several pages or frames, of which only the first is taken"
DARK = "are of 16 bits and use 14 of them at most: scale them to the full range, or most of what they show is lost"
FOURTH_BAND = "have a fourth band that is no transparency, and is left out"
LONG = "are more than twice as long as wide, or the other way round: the crop keeps less than half"
"""What is told of pictures of which much is lost."""


@cache
def formats() -> tuple[str, ...]:
    """Return the image formats that are read, as this Pillow was built, by Pillow's names."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


_BAD_EXIF = (SyntaxError, ValueError, TypeError, KeyError, EOFError, OSError, struct.error)
"""What Pillow raises of a block that it cannot read, beside pixels that it can."""


class BadImageError(SmallvitError):
    """An image that cannot be used; the message says why, the caller says where."""


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


def decode_upright(source: Path | str | io.BytesIO, tell: Callable[[str], object] | None = None) -> Image.Image:
    """Return the image of a file, or of one in memory, at full size, upright, as RGB; BadImageError where there is
    none. `tell` is called with each of `FRAMES`, `DARK`, `FOURTH_BAND` and `LONG` that it is a case of.
    """

    def convert(image: Image.Image) -> Image.Image:
        stored = _stored(image)
        image.load()
        _scale_transparency(image, stored)
        with suppress(*_BAD_EXIF):
            ImageOps.exif_transpose(image, in_place=True)
        upright = to_rgb(image)
        if tell is not None:
            for words in _losses(image, stored):
                tell(words)
        return upright

    return _opened(Path(source) if isinstance(source, str) else source, convert)


def fit_image(image: Image.Image, size: int) -> UInt8[np.ndarray, "H W 3"]:
    """Return the middle of an RGB image, its short side resized to `size` (bicubic)."""
    return np.asarray(ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB by the rules at the module's head; BadImageError where none applies."""
    if _is_sixteen_bit(image):
        values, clear = np.asarray(image).astype(np.float64), image.info.get("transparency")
        if _tag(image, _PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds of 8 bits alone
            values = 65535 - values
        if clear is not None:
            values[values == clear] = 65535
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "La":  # Pillow makes that nothing else
        image = image.convert("LA")
    if image.has_transparency_data and not _has_fourth_band(image):
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, layer).convert("RGB")
    if image.mode in (*_LOSSLESS, "CMYK", "YCbCr"):
        return image.convert("RGB")
    what = {"I": " (signed or of 32 bits)", "F": " (floating point)"}.get(image.mode, "")
    raise BadImageError(f"has mode {image.mode}{what}; expected 8-bit or 16-bit grey, RGB, palette or CMYK")


def _stored(image: Image.Image) -> str:
    """Return how Pillow calls a file's pixels before they are loaded, such as `L;4` or `RGB;16B`; nothing where it does
    not say.
    """
    tiles = getattr(image, "tile", ())
    how = tiles[0][3] if tiles else ""
    words = how if isinstance(how, tuple) else (how,)
    # Beside a PPM's mode stands its largest value.
    deep = image.format == "PPM" and isinstance(words[-1], int) and words[-1] > 255
    return f"{words[0]};16" if deep else str(words[0])


def _scale_transparency(image: Image.Image, stored: str) -> None:
    """Give a PNG's transparent colour the scale of the pixels, which Pillow has changed."""
    clear = image.info.get("transparency")
    most = {"L;2": 3, "L;4": 15}.get(stored)
    if most is not None and isinstance(clear, int) and clear <= most:
        image.info["transparency"] = clear * 255 // most
    elif stored.startswith("RGB;16") and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _losses(image: Image.Image, stored: str) -> list[str]:
    """Return what is told of an image that was loaded, from pixels that were `stored` so."""
    found: list[str] = []
    if _is_sixteen_bit(image):
        dark = np.asarray(image).max() < 2**14
    else:
        dark = ";16" in stored and image.format != "BMP" and np.asarray(image.convert("RGB")).max() < 2**14 >> 8
    if dark:
        found.append(DARK)
    if _has_fourth_band(image):
        found.append(FOURTH_BAND)
    if max(image.size) > 2 * min(image.size):
        found.append(LONG)
    with suppress(Exception):  # a further frame may be broken
        if image.format in _FRAMED and getattr(image, "is_animated", False):
            found.append(FRAMES)
    return found


def _is_sixteen_bit(image: Image.Image) -> bool:
    return image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _has_fourth_band(image: Image.Image) -> bool:
    """Return whether it is a TIFF of four samples that does not say that the fourth is transparency."""
    extra = _tag(image, _EXTRA_SAMPLES)
    return image.mode in ("RGBA", "RGBX", "RGB") and _tag(image, _SAMPLES) == 4 and extra not in (1, 2, (1,), (2,))


def _tag(image: Image.Image, number: int) -> object:
    return image.tag_v2.get(number) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _not_too_large(image: Image.Image) -> None:
    """Raise `BadImageError` for more pixels than Pillow allows: up to twice as many it only warns of."""
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise BadImageError(_too_large())


def _too_large() -> str:
    limit = f"{Image.MAX_IMAGE_PIXELS:,}" if Image.MAX_IMAGE_PIXELS else "any"
    return f"would unpack to more than {limit} pixels (a decompression bomb): make it smaller"


def _opened(source: Path | io.BytesIO, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        _not_empty(source)
        with Image.open(source, formats=formats()) as image:
            _not_too_large(image)
            return convert(image)
    except (BadImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(_too_large()) from error
    except Image.UnidentifiedImageError as error:
        raise BadImageError(_unknown(source)) from error
    except Exception as error:  # decoders of broken files raise almost anything: OSError, SyntaxError, struct.error
        if isinstance(error, OSError) and error.errno is not None:  # the file's, not a decoder's
            raise BadImageError(f"cannot be read ({error.strerror})") from error
        raise BadImageError(f"is truncated or broken ({' '.join(str(error).split())})") from error


def _unknown(source: Path | io.BytesIO) -> str:
    with io.BytesIO(source.getvalue()) if isinstance(source, io.BytesIO) else source.open("rb") as file:
        if file.read(4) in (b"II*\0", b"MM\0*"):
            return "is a TIFF of a kind that is not read (of more than four bands, say): write it as grey or RGB"
    return f"is not an image in a known format ({', '.join(formats())})"


def _not_empty(source: Path | io.BytesIO) -> None:
    if (len(source.getbuffer()) if isinstance(source, io.BytesIO) else source.stat().st_size) == 0:
        raise BadImageError("is empty (0 bytes); expected an image")
