import io
import struct
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from smallvit.data.decode import (
    DARK,
    FOURTH_BAND,
    FRAMES,
    LONG,
    BadImageError,
    decode_exact,
    decode_upright,
    fit_image,
)
from smallvit.data.decode_many import decode_all, decode_files
from smallvit.data.folder import picture_key
from smallvit.errors import SmallvitError

RNG = np.random.Generator(np.random.PCG64(0))
COLOUR = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def saved(folder: Path, image: Image.Image, name: str = "image.png", **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def fitted(path: Path, size: int) -> np.ndarray:
    return fit_image(decode_upright(path), size)


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few hundred bytes that claims 3.6 billion pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("BMP", {})])
def test_lossless_formats_give_their_pixels(kind: str, options: dict[str, object]) -> None:
    assert np.array_equal(decode_exact(encoded(Image.fromarray(COLOUR), kind, **options), 32), COLOUR)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_modes_that_hold_rgb_exactly_are_taken(mode: str) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    assert np.array_equal(decode_exact(encoded(image), 32), np.asarray(image.convert("RGB")))


def translucent() -> Image.Image:
    image = Image.fromarray(COLOUR).convert("RGBA")
    image.putpixel((3, 4), (0, 0, 0, 128))
    return image


@pytest.mark.parametrize(
    ("image", "kind", "reason"),
    [
        (Image.new("RGB", (31, 32)), "PNG", "is 31 x 32 pixels; expected a 32 x 32 RGB image"),
        (Image.new("CMYK", (32, 32)), "JPEG", "has mode CMYK"),
        (Image.fromarray(np.zeros((32, 32), np.uint16)), "PNG", "has mode I;16"),
        (translucent(), "PNG", "has transparent pixels"),
    ],
)
def test_what_is_not_32_x_32_rgb_is_refused(image: Image.Image, kind: str, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        decode_exact(encoded(image, kind), 32)


def test_empty_truncated_and_foreign_bytes_are_told_apart() -> None:
    whole = encoded(Image.fromarray(COLOUR))
    with pytest.raises(BadImageError, match="is empty"):
        decode_exact(b"", 32)
    with pytest.raises(BadImageError, match="truncated or broken"):
        decode_exact(whole[: len(whole) // 2], 32)
    with pytest.raises(BadImageError, match="not an image in a known format"):
        decode_exact(b"hello world", 32)


def test_every_cut_of_an_image_is_an_error_or_the_whole_picture() -> None:
    for whole in (encoded(Image.fromarray(COLOUR[:8, :8])), encoded(Image.fromarray(COLOUR[:8, :8]), "WEBP")):
        expected = decode_exact(whole, 8)
        for length in range(len(whole)):
            try:
                found = decode_exact(whole[:length], 8)
            except BadImageError:
                continue
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 10_000)])
def test_a_decompression_bomb_is_an_error_and_never_a_warning(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(*size))
    with pytest.raises(SmallvitError, match="decompression bomb"):
        decode_all([path], lambda item: fitted(item, 32), size=32, title="")


def test_a_picture_in_memory_has_the_same_limit() -> None:
    """Pillow warns between its limit and twice as many pixels, and decodes."""
    with warnings.catch_warnings(action="ignore"), pytest.raises(BadImageError, match="more than 89,478,485 pixels"):
        decode_upright(io.BytesIO(bomb(10_000, 10_000)))


def test_no_warning_filter_is_left_behind() -> None:
    before = list(warnings.filters)
    decode_all([COLOUR], lambda item: item, size=32, title="")
    assert list(warnings.filters) == before


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 1024).round().astype(np.uint16).reshape(32, 32)
    expected = np.rint(values / 257).astype(np.uint8)
    for name in ("a.png", "a.tif", "a.pgm"):
        found = fitted(saved(tmp_path, Image.fromarray(values), name), 32)
        assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=2)), name
    big = Image.fromarray(values.astype(">u2"))
    assert np.array_equal(fitted(saved(tmp_path, big, "big.tif"), 32)[..., 0], expected)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(BadImageError, match=f"has mode {mode} .*; expected"):
        fitted(saved(tmp_path, Image.new(mode, (32, 32), 7), "a.tif"), 32)


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "a.jpg"), ("L", "a.png"), ("P", "a.gif"), ("1", "a.png")])
def test_other_modes_become_rgb_as_pillow_has_it(tmp_path: Path, mode: str, name: str) -> None:
    path = saved(tmp_path, Image.fromarray(COLOUR).convert(mode), name)
    with Image.open(path) as image:
        assert image.mode == mode
        assert np.array_equal(fitted(path, 32), np.asarray(image.convert("RGB")))


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 16, 32))
    image.paste((200, 0, 0, 127), (16, 0, 20, 32))
    found = fitted(saved(tmp_path, image), 32)
    assert found[0, 0].tolist() == [200, 0, 0]
    assert found[0, 31].tolist() == [255, 255, 255]
    assert found[0, 18].tolist() == [228, 128, 128]
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    assert fitted(saved(tmp_path, palette, "p.png", transparency=1), 32)[5, 5].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, mode: str) -> None:
    pixels = COLOUR if mode == "RGB" else COLOUR[..., 0].astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(pixels), exif=exif)
    upright = {
        1: COLOUR,
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2),
        6: np.rot90(COLOUR, -1),
        7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOUR),
    }[orientation]
    expected = upright if mode == "RGB" else np.repeat(upright[..., :1], 3, axis=2)
    assert np.array_equal(fitted(path, 32), expected)


@pytest.mark.parametrize("shape", [(32, 32), (40, 100), (100, 40), (7, 9), (1, 50)])
def test_the_short_side_is_resized_and_the_centre_cropped(tmp_path: Path, shape: tuple[int, int]) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = ImageOps.fit(image, (16, 16), Image.Resampling.BICUBIC)
    found = fitted(saved(tmp_path, image), 16)
    assert np.array_equal(found, np.asarray(expected))


def test_the_crop_is_of_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    assert (fitted(saved(tmp_path, Image.fromarray(pixels)), 20) == 255).all()


@pytest.mark.parametrize("kind", ["png", "bmp"])
@pytest.mark.parametrize("side", [16, 128, 256])
def test_an_icon_is_not_taken_for_tga(tmp_path: Path, kind: str, side: int) -> None:
    pixels = RNG.integers(0, 256, (side, side, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    path = saved(tmp_path, Image.fromarray(pixels), "a.ico", sizes=[(side, side)], bitmap_format=kind)
    assert np.array_equal(fitted(path, side), pixels[..., :3])


def test_a_key_is_of_the_upright_pixels_and_not_of_the_file(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR)
    exif = Image.Exif()
    exif[0x0112] = 3
    paths = [
        saved(tmp_path, image, "a.png"),
        saved(tmp_path, image, "a.bmp"),
        saved(tmp_path, image.rotate(180), "turned.png", exif=exif),
    ]
    assert len({picture_key(decode_upright(path)) for path in paths}) == 1
    assert decode_upright(str(paths[2])) == decode_upright(paths[2])
    assert decode_upright(io.BytesIO(paths[2].read_bytes())) == decode_upright(paths[2])
    shapes = [saved(tmp_path, Image.new("RGB", shape), f"{shape}.png") for shape in ((8, 8), (4, 16), (16, 4))]
    assert len({picture_key(decode_upright(path)) for path in shapes}) == 3


def tiff(values: np.ndarray, photometric: int, *tags: tuple[int, int]) -> bytes:
    """An uncompressed TIFF of [height, width, bands], with one-valued tags of 16 bits beside those that it needs."""
    height, width, bands = values.shape
    bits, data = 8 * values.itemsize, values.tobytes()
    entries = [(256, 4, width), (257, 4, height), (259, 3, 1), (262, 3, photometric), (277, 3, bands), (278, 4, height)]
    entries += [(279, 4, len(data)), (339, 3, 1), *((number, 3, value) for number, value in tags)]
    at = 8 + 2 + 12 * (len(entries) + 2) + 4
    many = struct.pack(f"<{bands}H", *[bits] * bands) if bands > 2 else b""
    entries += [(258, 3, at if many else bits), (273, 4, at + len(many))]
    table = b""
    for number, kind, value in sorted(entries):
        count = bands if number == 258 and many else 1
        table += struct.pack("<HHII", number, kind, count, value)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + many + data


RAMP = np.tile(np.array([0, 20000, 40000, 65535], "<u2"), (4, 1))[..., None]


def lossy(path: Path) -> list[str]:
    found = decode_files([path], size=4, title="")
    assert found.broken == {}
    return list(found.lossy)


@pytest.mark.parametrize("kind", ["u1", "<u2"])
def test_a_tiff_whose_white_is_zero_is_no_negative(tmp_path: Path, kind: str) -> None:
    values = RAMP if kind == "<u2" else (RAMP >> 8).astype(kind)
    (tmp_path / "a.tif").write_bytes(tiff(values, 0))
    assert fitted(tmp_path / "a.tif", 4)[0, :, 0].tolist() == [255, 177, 99, 0]


def test_a_transparent_value_of_16_bits_lies_on_white(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(RAMP[..., 0]), transparency=20000)
    assert fitted(path, 4)[0, :, 0].tolist() == [0, 255, 156, 255]


@pytest.mark.parametrize("kind", ["u1", "<u2"])
def test_a_fourth_band_that_is_no_transparency_is_left_out_and_told(tmp_path: Path, kind: str) -> None:
    values = np.tile(np.array([200, 100, 50, 0], kind), (4, 4, 1)) * (257 if kind == "<u2" else 1)
    for tags, seen in (((), [200, 100, 50]), (((338, 0),), [200, 100, 50]), (((338, 2),), [255, 255, 255])):
        (tmp_path / "a.tif").write_bytes(tiff(values.astype(kind), 2, *tags))
        assert fitted(tmp_path / "a.tif", 4)[1, 1].tolist() == seen
        assert lossy(tmp_path / "a.tif") == ([FOURTH_BAND] if seen[0] == 200 else [])


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_several_frames_are_told_and_the_first_is_taken(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    exact = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **exact)
    assert lossy(path) == [FRAMES]
    assert decode_files([path], size=4, title="").images[0, :, 1, 1].tolist() == [255, 0, 0]
    assert lossy(saved(tmp_path, frames[0], name)) == []


def test_previews_in_a_jpeg_are_no_frames(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert lossy(tmp_path / "a.jpg") == []


def test_what_is_lost_of_dark_and_of_long_pictures_is_told(tmp_path: Path) -> None:
    for peak, words in ((2**14 - 1, [DARK]), (2**14, [])):
        assert lossy(saved(tmp_path, Image.fromarray(np.full((4, 4), peak, np.uint16)))) == words
    for shape, words in (((8, 16), []), ((8, 17), [LONG]), ((17, 8), [LONG])):
        assert lossy(saved(tmp_path, Image.new("RGB", shape))) == words


def sixteen(path: Path, value: int, colour_type: int, samples: int, *chunks: tuple[bytes, bytes]) -> Path:
    """Write a PNG of 16 bits, which Pillow writes of grey alone: 4 x 4 pixels, each sample the value."""
    row = b"\0" + struct.pack(">H", value) * (4 * samples)
    return png(path, 16, colour_type, row * 4, *chunks)


def png(path: Path, depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> Path:
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, depth, colour_type, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    framed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))
    return path


@pytest.mark.parametrize(("value", "words"), [(2**14 - 1, [DARK]), (2**14, [])])
def test_what_is_lost_of_dark_colour_of_16_bits_is_told(tmp_path: Path, value: int, words: list[str]) -> None:
    for name, colour_type, samples in (("rgb", 2, 3), ("grey and alpha", 4, 2), ("rgba", 6, 4)):
        path = sixteen(tmp_path / f"{name}.png", value, colour_type, samples)
        assert lossy(path) == words, name
    scaled = value - 2**7  # Pillow scales these and rounds
    (tmp_path / "a.ppm").write_bytes(b"P6 4 4 65535\n" + struct.pack(">H", scaled if words else value) * 48)
    (tmp_path / "a.tif").write_bytes(tiff(np.full((4, 4, 3), value, np.uint16), 2))
    assert [lossy(tmp_path / name) for name in ("a.ppm", "a.tif")] == [words, words]
    (tmp_path / "dark.ppm").write_bytes(b"P6 4 4 255\n" + b"\x09" * 48)
    assert lossy(tmp_path / "dark.ppm") == []
    mask = struct.pack("<IIiiHHIIiiIIIII", 54 + 12, 40, 4, 4, 1, 16, 3, 32, 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F)
    (tmp_path / "dark.bmp").write_bytes(b"BM" + struct.pack("<IHH", 98, 0, 0) + mask + struct.pack("<H", 0x2945) * 16)
    assert lossy(tmp_path / "dark.bmp") == [], "5 and 6 bits a colour"


def test_the_transparent_colour_of_a_png_has_the_scale_of_its_pixels(tmp_path: Path) -> None:
    """The left half of each has that colour, the right half another."""
    for depth, row, clear in ((2, b"\x5f", 1), (4, b"\x55\xff", 5), (8, b"\5\5\xff\xff", 5)):
        path = png(tmp_path / f"{depth}.png", depth, 0, (b"\0" + row) * 4, (b"tRNS", struct.pack(">H", clear)))
        assert fitted(path, 4)[0, :, 0].tolist() == [255] * 4, depth
        opaque = png(tmp_path / f"{depth}.png", depth, 0, (b"\0" + row) * 4)
        assert fitted(opaque, 4)[0, 0, 0] < 100
    for value, expected in ((0x1234, 255), (0x3412, 0x34)):
        path = sixteen(tmp_path / "rgb.png", value, 2, 3, (b"tRNS", struct.pack(">HHH", 0x1234, 0x1234, 0x1234)))
        assert (fitted(path, 4) == expected).all()


@pytest.mark.parametrize(("name", "kept"), [("a.tif", 64 * 64 * 3 + 400), ("a.gif", 173)])
def test_a_file_of_which_only_a_further_frame_is_broken_is_read(tmp_path: Path, name: str, kept: int) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime")]
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
    assert len(path.read_bytes()) > kept
    path.write_bytes(path.read_bytes()[:kept])
    assert decode_files([path], size=4, title="").images[0, :, 1, 1].tolist() == [255, 0, 0]


def test_notes_name_the_first_few(tmp_path: Path) -> None:
    paths = [saved(tmp_path, Image.new("RGB", (4, 20)), f"{i}.png") for i in (3, 1, 4, 2)]
    (note,) = decode_files([*paths, saved(tmp_path, Image.new("RGB", (4, 4)))], size=4, title="").notes(tmp_path)
    assert note == f"4 of 5 pictures {LONG}: 1.png, 2.png, 3.png, ..."


def test_a_tiff_that_pillow_cannot_read_is_not_called_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(np.zeros((4, 4, 5), np.uint8), 2))
    with pytest.raises(BadImageError, match="is a TIFF of a kind that is not read"):
        fitted(tmp_path / "a.tif", 4)


def test_an_eps_file_is_not_handed_to_ghostscript(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (32, 32)).save(path, "EPS")
    with pytest.raises(BadImageError, match="not an image in a known format"):
        fitted(path, 32)


def test_an_error_ends_the_work_of_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallvit.data.decode_many.usable_cores", lambda: 2)
    begun = 0

    def decode(i: int) -> np.ndarray:
        nonlocal begun
        begun += 1
        if i == 0:
            raise KeyboardInterrupt
        time.sleep(0.2)
        return np.zeros((2, 2, 3), np.uint8)

    with pytest.raises(KeyboardInterrupt):
        decode_all(range(4000), decode, size=2, title="")
    assert begun <= 8  # less than a chunk of each


def test_a_picture_for_which_there_is_no_memory_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    Image.new("RGB", (4, 4)).save(tmp_path / "whole.png")
    monkeypatch.setattr("PIL.Image.Image.load", full)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(MemoryError):
        decode_upright(tmp_path / "whole.png")


def test_a_file_that_cannot_be_opened_is_not_called_broken(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"^cannot be read \(No such file or directory\)$"):
        decode_upright(tmp_path / "gone.png")
    with pytest.raises(BadImageError, match=r"^cannot be read \(Is a directory\)$"):
        decode_upright(tmp_path)


def test_order_is_kept_and_the_first_error_is_raised() -> None:
    items = list(range(1000))

    def decode(i: int) -> np.ndarray:
        if i in (700, 300, 999):
            raise BadImageError(f"number {i}")
        return np.full((2, 2, 3), i % 256, np.uint8)

    with pytest.raises(BadImageError, match="number 300"):
        decode_all(items, decode, size=2, title="")
    found = decode_all(items[:300], decode, size=2, title="")
    assert found[:, 0, 0, 0].tolist() == [i % 256 for i in range(300)]
