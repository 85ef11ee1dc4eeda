"""The parquet form: one row an image, encoded bytes in one cell and the label in another, in one or more shards.

The layout is that of the Hugging Face mirrors: `img: struct<bytes, path>` and an integer label column. Rows are
counted from 0 within their file.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smallvit.data.decode import BadImageError, decode_exact
from smallvit.data.decode_many import decode_all
from smallvit.data.spec import DatasetSpec, Parquet
from smallvit.data.split import Split
from smallvit.errors import SmallvitError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_ROWS = 256
_MOST_BYTES = 1 << 16
"""Of an encoded image of 32 x 32 pixels, on average of as many rows: ten times what it has without any compression."""
_JPEG = b"\xff\xd8\xff"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.parquet")


def find_shards(folder: Path, split: str) -> tuple[Path, ...]:
    """Return the folder's parquet files of a split, sorted; a gap in a numbered series is an error."""
    shards = tuple(sorted(folder.glob(f"{split}*.parquet")))
    for match in filter(None, (_SHARD.fullmatch(shard.name) for shard in shards)):
        for index in range(int(match["count"])):
            wanted = folder / f"{match['stem']}-{index:05d}-of-{match['count']}.parquet"
            if wanted not in shards:
                raise SmallvitError(
                    f"{wanted}: missing; {match.string} says that there are {int(match['count'])} shards"
                )
    return shards


def read_shards(shards: Sequence[Path], spec: DatasetSpec, layout: Parquet, title: str) -> tuple[Split, bool]:
    """Return the shards' rows as one split, and whether any image is a (lossy) JPEG."""
    cells: list[tuple[Path, int, bytes | None]] = []
    labels: list[int] = []
    for shard in shards:
        images, numbers = _columns(shard, layout)
        cells += [(shard, row, data) for row, data in enumerate(images)]
        for row, label in enumerate(numbers):
            if label is None or not 0 <= label < spec.num_classes:
                allowed = f"{spec.name} has labels 0 to {spec.num_classes - 1}"
                raise SmallvitError(f"{shard} row {row}: label {label}; {allowed}")
            labels.append(label)
    size = spec.native_size

    def decode(cell: tuple[Path, int, bytes | None]) -> np.ndarray:
        shard, row, data = cell
        if data is None:
            raise SmallvitError(f"{shard} row {row}: no image bytes in column {layout.image_column!r}")
        try:
            return decode_exact(data, size)
        except BadImageError as error:
            raise SmallvitError(f"{shard} row {row}: image {error}") from error

    pixels = decode_all(cells, decode, size=size, title=title)
    jpeg = any(data is not None and data.startswith(_JPEG) for _, _, data in cells)
    return Split(images=pixels, labels=np.array(labels, dtype=np.int64)), jpeg


def _columns(shard: Path, layout: Parquet) -> tuple[list[bytes | None], list[int | None]]:
    """Return a shard's encoded images and labels, row by row, once its columns are found to be what they should."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image, label = layout.image_column, layout.label_column
    wanted = f"expected columns {image!r} (struct of bytes and path) and {label!r} (integer)"
    try:
        # Opened here: of a name that is not UTF-8 pyarrow knows nothing.
        with shard.open("rb") as opened, pq.ParquetFile(opened) as file:
            schema = file.schema_arrow
            types = {field.name: field.type for field in schema}
            if [schema.names.count(name) for name in (image, label)] != [1, 1]:
                raise SmallvitError(f"{shard}: has columns {', '.join(schema.names)}; {wanted}")
            found = pa.types.is_struct(types[image]) and types[image].get_field_index("bytes") >= 0
            cell = types[image].field("bytes").type if found else pa.null()
            if not (pa.types.is_binary(cell) or pa.types.is_large_binary(cell)):
                raise SmallvitError(f"{shard}: column {image!r} is {types[image]}; {wanted}")
            if not pa.types.is_integer(types[label]):
                raise SmallvitError(f"{shard}: column {label!r} is {types[label]}; {wanted}")
            table = _read(file, [f"{image}.bytes", label], shard)
    except (pa.ArrowException, OSError) as error:
        raise SmallvitError(f"{shard}: not a whole parquet file ({' '.join(str(error).split())})") from error
    return [cell and cell["bytes"] for cell in table.column(image).to_pylist()], table.column(label).to_pylist()


def _read(file: "ParquetFile", columns: list[str], shard: Path) -> Any:
    """Return the columns as a table, read bit by bit: by its dictionary a small file may hold cells without end."""
    import pyarrow as pa

    batches: list[pa.RecordBatch] = []
    for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
        if batch.nbytes > _ROWS * _MOST_BYTES:
            raise SmallvitError(
                f"{shard}: images of more than {_MOST_BYTES:,} bytes each; expected encoded 32 x 32 ones"
            )
        batches.append(batch)
    return pa.Table.from_batches(batches) if batches else file.read(columns=columns)
