"""Each fault in the parquet form is one line that names the file and the row."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smallvit.errors import SmallvitError


def spoilt(small, root: Path, row: int, change: Callable[[dict], None]) -> Path:
    small.parquet(root, shards=1)
    cells = small.cells("test", np.arange(12))
    change(cells[row])
    small.write_cells(root / "test-00000-of-00001.parquet", cells)
    return root


def with_image(data: bytes | None) -> Callable[[dict], None]:
    return lambda cell: cell["img"].update(bytes=data)


def picture(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


PARQUET_FAULTS = {
    "truncated": (
        with_image(picture(Image.effect_noise((32, 32), 90).convert("RGB"), "PNG")[:700]),
        "truncated or broken",
    ),
    "empty": (with_image(b""), "is empty"),
    "null": (with_image(None), "no image bytes"),
    "no image": (lambda cell: cell.update(img=None), "no image bytes"),
    "not an image": (with_image(b"hello"), "not an image in a known format"),
    "CMYK": (with_image(picture(Image.new("CMYK", (32, 32)), "JPEG")), "mode CMYK; expected a 32 x 32 RGB image"),
    "16 bit": (
        with_image(picture(Image.fromarray(np.zeros((32, 32), np.uint16)), "PNG")),
        "mode I;16; expected a 32 x 32",
    ),
    "size": (with_image(picture(Image.new("RGB", (96, 96)), "PNG")), "is 96 x 96 pixels; expected a 32 x 32 RGB image"),
    "label too large": (lambda cell: cell.update(label=3), "label 3; small has labels 0 to 2"),
    "label negative": (lambda cell: cell.update(label=-1), "label -1; small has labels 0 to 2"),
    "label absent": (lambda cell: cell.update(label=None), "label None; small has labels 0 to 2"),
}


@pytest.mark.parametrize("fault", PARQUET_FAULTS)
def test_a_fault_in_parquet_names_file_and_row(small, tmp_path: Path, load, fault: str) -> None:
    change, reason = PARQUET_FAULTS[fault]
    with pytest.raises(SmallvitError) as caught:
        load(spoilt(small, tmp_path / "root", 7, change))
    assert "test-00000-of-00001.parquet row 7: " in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    kept = [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert not kept, "nothing is kept of a set that was refused"


@pytest.mark.parametrize("mode", ["P", "L", "RGBA"])
def test_a_cell_that_holds_its_colours_another_way_is_read_exactly(small, tmp_path: Path, load, mode: str) -> None:
    image = Image.fromarray(small.images["test"][7].transpose(1, 2, 0)).convert(mode)
    data = load(spoilt(small, tmp_path / "root", 7, with_image(picture(image, "PNG"))))
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert any(np.array_equal(found, expected) for found in data.test.images)


def test_a_folder_whose_name_is_not_utf_8_is_read(small, tmp_path: Path, load) -> None:
    named = small.parquet(tmp_path / "root", shards=1).rename(tmp_path / os.fsdecode(b"caf\xe9"))
    assert len(load(named).test) == 12


def test_a_missing_shard_is_named(small, tmp_path: Path, load) -> None:
    root = small.parquet(tmp_path / "root", shards=3)
    (root / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(SmallvitError, match=r"train-00001-of-00003\.parquet: missing; .* there are 3 shards"):
        load(root)
    for shard in root.glob("test*"):
        shard.unlink()
    small.parquet(root, shards=3)
    for shard in root.glob("test*"):
        shard.unlink()
    with pytest.raises(SmallvitError, match=r"test\*\.parquet is missing"):
        load(root)


def test_wrong_counts_are_named(small, tmp_path: Path, load) -> None:
    root = small.parquet(tmp_path / "root", shards=1)
    small.write_cells(root / "train-00000-of-00001.parquet", small.cells("train", np.arange(29)))
    with pytest.raises(SmallvitError, match="29 train images; small has 30"):
        load(root)
    cells = small.cells("train", np.arange(30))
    cells[3]["label"] = (cells[3]["label"] + 1) % 3
    small.write_cells(root / "train-00000-of-00001.parquet", cells)
    with pytest.raises(SmallvitError, match=r"(9|11) train images of class \d \((ant|bee|cat)\); expected 10"):
        load(root)


def test_cells_that_would_fill_the_memory_are_refused(small, tmp_path: Path, load) -> None:
    """By its dictionary a file of a few kilobytes holds one cell of a megabyte thousands of times."""
    root = small.parquet(tmp_path / "root", shards=1)
    shard = root / "train-00000-of-00001.parquet"
    small.write_cells(shard, [{"img": {"bytes": bytes(1 << 20), "path": None}, "label": 0}] * 600)
    assert shard.stat().st_size < 1 << 20
    with pytest.raises(SmallvitError, match="images of more than 65,536 bytes each; expected encoded 32 x 32 ones"):
        load(root)


def test_a_parquet_file_cut_short_or_of_other_columns_is_named(small, tmp_path: Path, load) -> None:
    root = small.parquet(tmp_path / "root", shards=1)
    path = root / "train-00000-of-00001.parquet"
    whole = path.read_bytes()
    for cut in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(SmallvitError, match=r"train-00000-of-00001\.parquet: not a whole parquet file"):
            load(root)
    small.write_cells(
        path, [{"img": cell["img"], "klass": cell["label"]} for cell in small.cells("train", np.arange(30))], "klass"
    )
    with pytest.raises(SmallvitError, match=r"has columns img, klass; expected columns 'img' .* and 'label'"):
        load(root)
    table = pa.table({"img": [{"bytes": b"", "path": ""}], "label": [0]})
    for twice, words in (
        ("label", "has columns img, label, label; expected columns"),
        ("note", "has columns img, note, "),
    ):
        names = ["img", twice, twice]
        pq.write_table(pa.Table.from_arrays([table["img"], table["label"], table["label"]], names=names), path)
        with pytest.raises(SmallvitError, match=words):
            load(root)
    pq.write_table(pa.Table.from_pylist([{"img": {"bytes": "a text", "path": ""}, "label": 0}]), path)
    with pytest.raises(SmallvitError, match=r"column 'img' is struct<bytes: string.*; expected columns 'img' .*bytes"):
        load(root)
