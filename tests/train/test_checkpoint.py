"""What is saved comes back bit for bit, and what is damaged is passed over by name."""

import errno
import json
import os
import random
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from checkpoint_driver import example
from smallvit.errors import SmallvitError, UsageError
from smallvit.strict_json import canonical, digest
from smallvit.train.checkpoint import Checkpoint, load_newest, remove_leftovers, save_checkpoint

FILES = ("manifest.json", "metrics.jsonl", "model.safetensors", "optimizer.safetensors", "state.json")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same(first: Checkpoint | None, second: Checkpoint) -> None:
    """Equal to the bit: dtypes, shapes, and the bytes of NaN and -0.0 too."""
    assert first is not None
    assert (first.step, first.state, first.texts) == (second.step, second.state, second.texts)
    assert canonical(first.state) == canonical(second.state)
    assert first.tensors.keys() == second.tensors.keys()
    for group, tensors in second.tensors.items():
        assert first.tensors[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            found = first.tensors[group][name]
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
            assert _bytes(found) == _bytes(tensor), name


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with whole checkpoints of steps 10 and 20."""
    folder = tmp_path / "run"
    for step in (10, 20):
        save_checkpoint(folder, example(step))
    return folder


def test_what_is_saved_comes_back_with_ordinary_files(two: Path) -> None:
    assert names(two) == ["step-00000010", "step-00000020"]
    assert names(two / "step-00000020") == list(FILES)
    loaded, passed_over = load_newest(two)
    assert passed_over == []
    assert_same(loaded, example(20))
    with safe_open(two / "step-00000020" / "model.safetensors", framework="pt") as file:  # another reader
        assert torch.equal(file.get_tensor("weight"), example(20).tensors["model"]["weight"])
    mask = os.umask(0)
    os.umask(mask)
    for name in FILES:
        assert stat.S_IMODE((two / "step-00000020" / name).stat().st_mode) == 0o666 & ~mask


def test_manifest_is_what_sha256sum_says(two: Path) -> None:
    import subprocess

    folder = two / "step-00000020"
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        said = subprocess.run(["sha256sum", folder / name], capture_output=True, text=True, check=True).stdout
        assert said.split()[0] == entry["sha256"]
        assert (folder / name).stat().st_size == entry["size"]


def test_nothing_there_is_nothing_found(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "nowhere") == (None, [])
    assert load_newest(tmp_path) == (None, [])
    remove_leftovers(tmp_path / "nowhere")
    (tmp_path / "step-7").mkdir()
    (tmp_path / "step-00000007.bak").mkdir()
    (tmp_path / "notes-00000007").mkdir()
    assert load_newest(tmp_path) == (None, [])


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        assert save_checkpoint(tmp_path, example(step)) == tmp_path / f"step-{step:08d}"
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    save_checkpoint(tmp_path, example(100_000_000))
    assert names(tmp_path) == ["step-00000003", "step-100000000"]
    assert_same(load_newest(tmp_path)[0], example(100_000_000))


def test_a_checkpoint_of_the_same_step_stays_if_it_is_whole_and_is_replaced_if_not(two: Path) -> None:
    path = two / "step-00000020"
    before = path.stat().st_ino
    save_checkpoint(two, example(20))
    assert path.stat().st_ino == before
    (path / "state.json").unlink()
    save_checkpoint(two, example(20))
    assert path.stat().st_ino != before
    assert names(two) == ["step-00000010", "step-00000020"]
    assert_same(load_newest(two)[0], example(20))


def test_after_a_fall_back_the_damaged_one_does_not_count_as_one_to_keep(two: Path) -> None:
    """Otherwise the first save after it would delete the checkpoint that the run went on from, or itself."""
    flip(two / "step-00000020" / "model.safetensors", 300)
    assert_same(load_newest(two)[0], example(10))
    save_checkpoint(two, example(15))
    assert names(two) == ["step-00000010", "step-00000015"]
    save_checkpoint(two, example(25))
    assert names(two) == ["step-00000015", "step-00000025"]


def test_a_later_whole_one_is_left_alone(two: Path) -> None:
    save_checkpoint(two, example(15))
    assert names(two) == ["step-00000010", "step-00000015", "step-00000020"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short_is_found_out(two: Path, file: str) -> None:
    path = two / "step-00000020" / file
    whole = path.read_bytes()
    for length in sorted({0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1}):
        path.write_bytes(whole[:length])
        said = f"{file} has {length} bytes instead of {len(whole)}"
        assert_passed_over(two, "manifest.json does not parse: .*" if file == "manifest.json" else re.escape(said))
    path.write_bytes(whole + b"\0")
    assert_passed_over(two, re.escape(file) + " (has .* bytes instead of .*|does not parse: .*)")
    path.write_bytes(whole)
    assert_same(load_newest(two)[0], example(20))


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_found_out(two: Path, file: str) -> None:
    path = two / "step-00000020" / file
    whole = path.read_bytes()
    draw = random.Random(file)
    said = f"{re.escape(file)} does not match its sha256"
    if file == "manifest.json":
        said = "manifest.json (does not parse: .*|was changed after it was written)"
    for position in {0, 8, len(whole) - 1, *draw.sample(range(len(whole)), min(100, len(whole)))}:
        path.write_bytes(whole)
        flip(path, position, draw.randrange(8))
        assert_passed_over(two, said, compare=False)
    path.write_bytes(whole)
    assert_same(load_newest(two)[0], example(20))


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_found_out(two: Path, file: str) -> None:
    (two / "step-00000020" / file).unlink()
    assert_passed_over(two, re.escape(file) + " is missing")


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_another_checkpoint_is_found_out(two: Path, file: str) -> None:
    shutil.copy(two / "step-00000010" / file, two / "step-00000020" / file)
    said = f"{re.escape(file)} (has .* bytes instead of .*|does not match its sha256)"
    assert_passed_over(two, "manifest.json is that of step 10" if file == "manifest.json" else said)


def test_a_renamed_checkpoint_is_found_out(two: Path) -> None:
    (two / "step-00000010").rename(two / "step-00000030")
    loaded, passed_over = load_newest(two)
    assert [str(problem) for problem in passed_over] == ["step-00000030: manifest.json is that of step 10"]
    assert_same(loaded, example(20))


def test_other_things_under_the_name_are_passed_over(two: Path) -> None:
    (two / "step-00000030").mkdir()
    (two / "step-00000040").write_text("a file")
    (two / "step-00000050").symlink_to("nowhere")
    folder = two / "step-00000060"
    shutil.copytree(two / "step-00000020", folder)
    (folder / "state.json").unlink()
    (folder / "state.json").mkdir()
    rewrite(folder, step=60)
    loaded, passed_over = load_newest(two)
    assert [str(problem) for problem in passed_over] == [
        "step-00000060: state.json cannot be read: Is a directory",
        "step-00000050: manifest.json is missing",
        "step-00000040: manifest.json cannot be read: Not a directory",
        "step-00000030: manifest.json is missing",
    ]
    assert_same(loaded, example(20))


def test_a_newer_schema_is_named_and_never_deleted(two: Path) -> None:
    rewrite(two / "step-00000020", schema=2)
    line = "manifest.json has schema 2, of a newer smallvit: this version reads 1"
    assert_passed_over(two, re.escape(line))
    save_checkpoint(two, example(15))
    assert names(two) == ["step-00000010", "step-00000015", "step-00000020"]
    with pytest.raises(SmallvitError, match=re.escape(f"step-00000020 is in the way of a new checkpoint: {line}")):
        save_checkpoint(two, example(20))
    rewrite(two / "step-00000020", schema=0)
    assert [str(problem) for problem in load_newest(two)[1]] == [
        "step-00000020: manifest.json has schema 0, not known: this version reads 1"
    ]
    for step in (25, 30, 35):
        save_checkpoint(two, example(step))
    assert names(two) == ["step-00000020", "step-00000030", "step-00000035"]


@pytest.mark.parametrize(
    "files",
    [[], {}, {"state.json": 3}, {"state.json": {"size": "x", "sha256": ""}}, {"state.json": {}, "../a": {}}, None],
)
def test_a_manifest_of_another_make_is_passed_over(two: Path, files: Any) -> None:
    rewrite(two / "step-00000020", files=files)
    assert_passed_over(two, "manifest.json does not list the files")


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"a": 1, "a": 2}', "[" * 100_000, '{"a":1e999}', "\ufeff{}"])
def test_a_manifest_that_is_something_else_is_passed_over(two: Path, text: str) -> None:
    (two / "step-00000020" / "manifest.json").write_text(text)
    assert_passed_over(two, "manifest.json (does not parse: .*|was changed after it was written)")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("state.json", b"[1]", "state.json holds no state"),
        ("state.json", b"{", "state.json does not parse: .*"),
        ("metrics.jsonl", b"\xff", "metrics.jsonl does not parse: .*"),
        ("model.safetensors", b"not tensors", "model.safetensors does not parse: .*"),
    ],
)
def test_files_that_match_their_hash_but_do_not_parse_are_passed_over(
    two: Path, file: str, content: bytes, said: str
) -> None:
    import hashlib

    (two / "step-00000020" / file).write_bytes(content)
    manifest = json.loads((two / "step-00000020" / "manifest.json").read_text())
    manifest["files"][file] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(two / "step-00000020", files=manifest["files"])
    assert_passed_over(two, said)


def test_all_damaged_is_none_found(two: Path) -> None:
    for path in two.iterdir():
        (path / "manifest.json").unlink()
    loaded, passed_over = load_newest(two)
    assert loaded is None
    assert [str(problem) for problem in passed_over] == [
        "step-00000020: manifest.json is missing",
        "step-00000010: manifest.json is missing",
    ]


def test_leftovers_are_removed_and_nothing_else(two: Path) -> None:
    for name in (
        ".step-00000030.77-0a1b2c3d",
        ".step-00000001.1-ffffffff",
        ".step-3.1-ffffffff",
        ".notes.1-ffffffff",
        ".step-00000030.77.tmp",
        "step-00000030.77-0a1b2c3d",
    ):
        (two / name).mkdir()
        (two / name / "file").write_text("x")
    remove_leftovers(two)
    hidden = [".notes.1-ffffffff", ".step-00000030.77.tmp", ".step-3.1-ffffffff"]
    assert names(two) == [*hidden, "step-00000010", "step-00000020", "step-00000030.77-0a1b2c3d"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"texts": {"state.json": ""}}, ValueError),
        ({"texts": {"manifest.json": ""}}, ValueError),
        ({"texts": {"model.safetensors": ""}}, ValueError),
        ({"texts": {"../escape": ""}}, ValueError),
        ({"texts": {".hidden": ""}}, ValueError),
        ({"texts": {"lone": "\ud800"}}, ValueError),
        ({"state": {"loss": float("nan")}}, ValueError),
        ({"step": -1}, UsageError),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path: Path, change: Any, error: Any) -> None:
    with pytest.raises(error):
        save_checkpoint(tmp_path, Checkpoint(**{"step": 1, "tensors": {}, "state": {}, "texts": {}, **change}))
    assert names(tmp_path) == []


def test_an_interrupt_in_a_save_leaves_nothing_behind(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("smallvit.files.flush_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(two, example(30))
    assert names(two) == ["step-00000010", "step-00000020"]


def test_tensors_that_share_memory_or_are_strided_come_back(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"base": base, "again": base, "row": base[1], "turned": base.T, "column": base[:, 1], "gradient": base}
    saved = Checkpoint(step=1, tensors={"t": tensors, "none": {}}, state={}, texts={})
    save_checkpoint(tmp_path, saved)
    assert_same(load_newest(tmp_path)[0], saved)


DTYPES = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.int64: torch.int64, torch.bool: torch.bool}


@st.composite
def tensor(draw: st.DrawFn) -> Tensor:
    """Any bits, of any of the dtypes; also empty and 0-d."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    bits = DTYPES[dtype]
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = torch.Size(shape).numel()
    if bits is torch.bool:
        values: Any = st.booleans()
    else:
        values = st.integers(torch.iinfo(bits).min, torch.iinfo(bits).max)
    drawn = draw(st.lists(values, min_size=count, max_size=count))
    return torch.tensor(drawn, dtype=bits).view(dtype).reshape(shape)


NAMES = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}\Z")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(
    groups=st.dictionaries(NAMES, st.dictionaries(st.text(min_size=1), tensor(), max_size=3), max_size=2),
    state=st.dictionaries(st.text(), VALUES, max_size=3),
    texts=st.dictionaries(NAMES, st.text(st.characters(codec="utf-8")), max_size=2),
)
def test_any_checkpoint_comes_back(
    tmp_path_factory: pytest.TempPathFactory, groups: Any, state: Any, texts: Any
) -> None:
    texts = {name + ".txt": text for name, text in texts.items()}
    saved = Checkpoint(step=3, tensors=groups, state=state, texts=texts)
    folder = tmp_path_factory.mktemp("any")
    save_checkpoint(folder, saved)
    loaded, passed_over = load_newest(folder)
    assert passed_over == []
    assert_same(loaded, saved)
    shutil.rmtree(folder)


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def rewrite(path: Path, **changes: Any) -> None:
    """Change a manifest and seal it again, as another version would have."""
    body = {**json.loads((path / "manifest.json").read_text()), **changes}
    del body["sha256"]
    (path / "manifest.json").write_text(canonical({**body, "sha256": digest(body)}))


def assert_passed_over(folder: Path, line: str, *, compare: bool = True) -> None:
    loaded, passed_over = load_newest(folder)
    assert len(passed_over) == 1
    assert re.fullmatch("step-00000020: " + line, str(passed_over[0])), passed_over
    assert loaded is not None
    assert loaded.step == 10
    if compare:
        assert_same(loaded, example(10))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks up in /proc what is flushed")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_flushes_no_folders_is_saved_to(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = os.fsync

    def fsync(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").is_dir():
            raise OSError(number, os.strerror(number))
        true(file)

    monkeypatch.setattr(os, "fsync", fsync)
    save_checkpoint(tmp_path, example(30))
    assert names(tmp_path) == ["step-00000030"]
