"""Each fault in the official batches or their archives is one line that names the file and the row."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smallvit.errors import SmallvitError


def test_binary_faults_are_named(small, tmp_path: Path, load) -> None:
    files = small.binary_files()
    first = files["data_batch_2.bin"]
    cases = {
        "cut": (first[:-1], r"data_batch_2\.bin row 5: cut short; expected records of 3073 bytes"),
        "empty": (b"", r"data_batch_2\.bin row 0: cut short"),
        "record": (first[:-3073], "29 train images; small has 30"),
        "label": (first[:3073] + b"\x07" + first[3074:], r"data_batch_2\.bin row 1: label 7; small has labels 0 to 2"),
    }
    for name, (data, reason) in cases.items():
        root = small.write(tmp_path / name, {**files, "data_batch_2.bin": data})
        with pytest.raises(SmallvitError, match=reason):
            load(root)
    del files["data_batch_4.bin"]
    with pytest.raises(SmallvitError, match=r"data_batch_4\.bin is missing; small has data_batch_1\.bin, "):
        load(small.write(tmp_path / "missing", files))
    archive = small.tar(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    with pytest.raises(SmallvitError, match=r"cifar-10-binary\.tar\.gz: data_batch_4\.bin is missing"):
        load(archive)


class Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_python_faults_are_named(small, tmp_path: Path, load) -> None:
    files = small.python_files()
    batch = pickle.loads(files["data_batch_3"])
    cases = {
        "call": ({**batch, b"x": Touches(tmp_path / "made")}, "refused, it wants to call posix.mkdir"),
        "label": ({**batch, b"labels": [0, 1, 2, 0, 9, 1]}, "row 4: label 9; small has labels 0 to 2"),
        "huge": ({**batch, b"labels": [0, 1, 2, 0, 10**30, 1]}, f"row 4: label {10**30}"),
        "endless": ({**batch, b"labels": [0, 1, 2, 0, 10**5000, 1]}, "'labels' is not a list of whole numbers"),
        "text": ({**batch, b"labels": ["a"] * 6}, "'labels' is not a list of whole numbers"),
        "count": ({**batch, b"labels": [0, 1]}, "6 images but 2 labels"),
        "shape": ({**batch, b"data": batch[b"data"][:, :-1]}, "'data' is not a uint8 array of 3072 columns"),
        "number": ({**batch, b"data": np.array(7, np.uint8)}, "'data' is not a uint8 array of 3072 columns"),
        "type": ({**batch, b"data": batch[b"data"].astype(np.float32)}, "'data' is not a uint8 array"),
        "absent": ({b"labels": batch[b"labels"]}, "'data' is not a uint8 array"),
        "list": ([1, 2], "it holds a list, not a dictionary"),
    }
    for name, (changed, reason) in cases.items():
        root = small.write(tmp_path / name, {**files, "data_batch_3": pickle.dumps(changed, 2)})
        with pytest.raises(SmallvitError, match=reason) as caught:
            load(root)
        assert f"{root / 'data_batch_3'}" in str(caught.value)
    assert not (tmp_path / "made").exists()
    cut = small.write(tmp_path / "cut", {**files, "data_batch_3": files["data_batch_3"][:-50]})
    with pytest.raises(SmallvitError, match="data_batch_3: refused, "):
        load(cut)


def hostile(archive: Path, member: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return archive


def test_an_archive_that_climbs_out_is_refused_and_links_are_not_followed(tmp_path: Path, load) -> None:
    archive = tmp_path / "cifar-10-binary.tar.gz"
    for name in ("/etc/data_batch_1.bin", "../data_batch_1.bin", "a/../../data_batch_1.bin"):
        with pytest.raises(SmallvitError, match=f": {name} lies outside of the archive's folder"):
            load(hostile(archive, tarfile.TarInfo(name), b"x"))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.type, member.linkname = kind, "/etc/passwd"
        with pytest.raises(SmallvitError, match=r": data_batch_1\.bin is missing"):
            load(hostile(archive, member))
    assert not [path for path in tmp_path.rglob("*") if "data_batch" in path.name]


def test_a_member_that_would_fill_the_memory_is_refused(tmp_path: Path, load) -> None:
    member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    with pytest.raises(SmallvitError, match="has 9,000,000 bytes; expected at most 1,2"):
        load(hostile(tmp_path / "cifar-10-binary.tar.gz", member, b"\0" * 9_000_000))


def read_by_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let headers be read as Pythons of 2026 read them, which do not call `frombuf`."""
    usual = tarfile.TarInfo.frombuf.__func__

    def _frombuf(cls: type[tarfile.TarInfo], *args: Any, dircheck: bool) -> tarfile.TarInfo:
        return usual(cls, *args)

    def fromtarfile(cls: type[Any], tar: Any) -> tarfile.TarInfo:
        member = cls._frombuf(tar.fileobj.read(tarfile.BLOCKSIZE), tar.encoding, tar.errors, dircheck=False)
        member.offset = tar.fileobj.tell() - tarfile.BLOCKSIZE
        return member._proc_member(tar)

    monkeypatch.setattr(tarfile.TarInfo, "_frombuf", classmethod(_frombuf), raising=False)
    monkeypatch.setattr(tarfile.TarInfo, "fromtarfile", classmethod(fromtarfile))


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_the_memory_is_refused(
    tmp_path: Path, load, kind: bytes, patched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long name and the like are read whole, before any member is there to be looked at."""
    if patched:
        read_by_another_name(monkeypatch)
    header = tarfile.TarInfo("x")
    header.type = kind
    with pytest.raises(SmallvitError, match="a header of 2,000,000 bytes"):
        load(hostile(tmp_path / "cifar-10-binary.tar.gz", header, b"a" * 2_000_000))


def test_every_cut_of_an_archive_is_an_error(small, tmp_path: Path, load) -> None:
    archive = small.tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", small.python_files())
    whole = archive.read_bytes()
    for cut in (0, 1, 20, 1000, len(whole) // 2, len(whole) - 2000):
        archive.write_bytes(whole[:cut])
        with pytest.raises(SmallvitError, match=r"cifar-10-python\.tar\.gz: .*(cut short|missing)"):
            load(archive)
    for begin in (b"\x1f\x8b", b"\xfd7zXZ\0\0\4\xe6\xd6\xb4F"):  # of gzip, and of xz
        archive.write_bytes(begin + os.urandom(500))
        with pytest.raises(SmallvitError, match="cut short, or not a tar archive"):
            load(archive)
