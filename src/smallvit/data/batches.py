"""The official binary and python batches, from their folder or straight from the .tar.gz that holds it.

Source: https://www.cs.toronto.edu/~kriz/cifar.html. A binary record is one label byte (CIFAR-10) or two (CIFAR-100:
coarse, fine), then 3,072 bytes of pixels as colour planes; a python batch is a pickled dictionary with the same
pixels as `data` [n, 3072]. Nothing of an archive is ever written to disk. Rows are counted from 0 within their file.
"""

import pickle
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, Self, TypeVar

import numpy as np

from smallvit.data.damaged import DAMAGED
from smallvit.data.spec import BinaryBatches, DatasetSpec, PythonBatches
from smallvit.data.split import Split
from smallvit.data.unpickle import load
from smallvit.errors import SmallvitError

AnyMember = TypeVar("AnyMember", bound=tarfile.TarInfo)
_SLACK = 1 << 20
_MOST_HEADER = 1 << 20
"""Bytes of a header of an archive: its members have short names."""


def read_batches(place: Path, spec: DatasetSpec, layout: BinaryBatches | PythonBatches) -> dict[str, Split]:
    """Return {"train", "test"} of the batches in `place`, a folder or a tar archive."""
    names = (*layout.train, *layout.test)
    # Python batches carry a file name beside each image: twice the pixels is ample, and bounds a bomb.
    limit = 2 * max(spec.train_size, spec.test_size) * _pixels(spec) + _SLACK
    members = _from_folder(place, names) if place.is_dir() else _from_tar(place, names, limit)
    for name in names:
        if name not in members:
            raise SmallvitError(f"{place}: {name} is missing; {spec.name} has {', '.join(names)}")

    def read(name: str) -> Split:
        where = f"{place}/{name}"
        if isinstance(layout, BinaryBatches):
            return _binary(members.pop(name), spec, layout, where)
        return _python(members.pop(name), spec, layout, where)

    def join(parts: list[Split]) -> Split:
        return Split(
            images=np.concatenate([part.images for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
        )

    return {"train": join([read(n) for n in layout.train]), "test": join([read(n) for n in layout.test])}


def _pixels(spec: DatasetSpec) -> int:
    return 3 * spec.native_size**2


def _from_folder(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _from_tar(archive: Path, names: tuple[str, ...], limit: int) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:*", tarinfo=_Member) as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if not member.isfile() or name not in names or name in members:
                    continue
                if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
                    raise SmallvitError(f"{archive}: {member.name} lies outside of the archive's folder; none may")
                if member.size > limit:
                    raise SmallvitError(
                        f"{archive}: {member.name} has {member.size:,} bytes; expected at most {limit:,}"
                    )
                file = tar.extractfile(member)
                members[name] = file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError, *DAMAGED) as error:
        raise SmallvitError(f"{archive}: cut short, or not a tar archive ({error})") from error
    return members


class _Member(tarfile.TarInfo):
    """A member of an archive; a long name or extended header, which is read whole at once, has a limit."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the header's member."""
        return _limited(super().frombuf(buf, encoding, errors))

    @classmethod
    def _frombuf(cls, *args: Any, **options: Any) -> Self:
        """Likewise: what archives are read by since Python 3.13.13 and 3.14.4 (CVE-2025-13462)."""
        return _limited(super()._frombuf(*args, **options))  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType, reportUnknownVariableType]


def _limited(member: AnyMember) -> AnyMember:
    is_file = member.type in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE)
    if not is_file and member.size > _MOST_HEADER:
        raise tarfile.ReadError(f"a header of {member.size:,} bytes")
    return member


def _binary(data: bytes, spec: DatasetSpec, layout: BinaryBatches, where: str) -> Split:
    record = layout.label_bytes + _pixels(spec)
    if not data or len(data) % record:
        rows = len(data) // record
        raise SmallvitError(
            f"{where} row {rows}: cut short; expected records of {record} bytes, found {len(data)} bytes"
        )
    table = np.frombuffer(data, np.uint8).reshape(-1, record)
    return _checked(table[:, layout.label_bytes :], table[:, layout.label_index], spec, where)


def _python(data: bytes, spec: DatasetSpec, layout: PythonBatches, where: str) -> Split:
    try:
        batch = load(data)
    except pickle.UnpicklingError as error:
        raise SmallvitError(
            f"{where}: refused, {error}; expected a pickle of arrays, bytes, dicts and lists"
        ) from error
    pixels, labels = batch.get("data"), batch.get(layout.label_key)
    width = _pixels(spec)
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (width,)):
        raise SmallvitError(f"{where}: 'data' is not a uint8 array of {width} columns")
    if not (isinstance(labels, list) and all(type(label) is int and abs(label) < 10**100 for label in labels)):
        raise SmallvitError(f"{where}: {layout.label_key!r} is not a list of whole numbers")
    if len(labels) != len(pixels):
        raise SmallvitError(f"{where}: {len(pixels)} images but {len(labels)} labels")
    return _checked(pixels, np.array(labels, dtype=object), spec, where)


def _checked(pixels: np.ndarray, labels: np.ndarray, spec: DatasetSpec, where: str) -> Split:
    wrong = np.flatnonzero((labels < 0) | (labels >= spec.num_classes))
    if len(wrong):
        row = int(wrong[0])
        raise SmallvitError(
            f"{where} row {row}: label {labels[row]}; {spec.name} has labels 0 to {spec.num_classes - 1}"
        )
    size = spec.native_size
    return Split(images=pixels.reshape(-1, 3, size, size), labels=labels.astype(np.int64))
