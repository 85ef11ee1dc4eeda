"""What a checkpoint's files hold, and how each is checked when it is read.

`<group>.safetensors` are tensors, state.json is the rest, any other name is a text. manifest.json has the size and
sha256 of every file (safetensors loads a flipped bit without complaint), the step and the schema version, and last a
digest of itself; as its text is canonical, no byte of it can change unseen either.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from smallvit.strict_json import canonical, digest, parse

SCHEMA_VERSION = 1
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", ".safetensors"
_FILE = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on after `step` steps."""

    step: int
    """Steps done."""
    tensors: dict[str, dict[str, Tensor]]
    """Groups of named tensors, one safetensors file each."""
    state: dict[str, Any]
    """JSON values; NaN and infinities are none."""
    texts: dict[str, str]
    """Copies of text files by their names."""


class DamagedError(Exception):
    """Not a whole checkpoint; the message says why."""


class ForeignError(DamagedError):
    """Not readable by this version, or not just now, but perhaps whole: never deleted."""


class NewerError(ForeignError):
    """Whole, and written by a newer smallvit."""


def serialise(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the content of every file but the manifest; nothing is written if a value cannot be."""
    files = {name + TENSORS: tensor_bytes(tensors) for name, tensors in checkpoint.tensors.items()}
    files[STATE] = canonical(checkpoint.state).encode()
    for name, text in checkpoint.texts.items():
        if name in files or name == MANIFEST or name.endswith(TENSORS):
            raise ValueError(f"{name} is the name of another file of a checkpoint")
        files[name] = text.encode()
    odd = next((name for name in files if not _FILE.fullmatch(name)), None)
    if odd is not None:
        raise ValueError(f"{odd!r} is no name for a file of a checkpoint")
    return files


def tensor_bytes(tensors: Mapping[str, Tensor], texts: dict[str, str] | None = None) -> bytes:
    """Return tensors, and texts beside them, as safetensors; tensors that share memory are copied apart."""
    host: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        if copy.untyped_storage().data_ptr() in storages:  # safetensors refuses them
            copy = copy.clone()
        storages.add(copy.untyped_storage().data_ptr())
        host[name] = copy
    return safetensors.torch.save(host, texts)


def manifest(step: int, files: Mapping[str, tuple[int, str]]) -> bytes:
    """Return the text of manifest.json for files of these sizes and sha256."""
    entries = {name: {"size": size, "sha256": sha256} for name, (size, sha256) in files.items()}
    body = {"schema": SCHEMA_VERSION, "step": step, "files": entries}
    return canonical({**body, "sha256": digest(body)}).encode()


def read(path: Path, step: int) -> Checkpoint:
    """Return a checkpoint all of whose bytes are as they were written; raise `DamagedError` with what is wrong."""
    if not os.path.lexists(path):
        raise DamagedError("is not there")
    contents: dict[str, bytes] = {}
    for name, (size, sha256) in _manifest(path, step).items():
        data = contents[name] = _content(path, name)
        if len(data) != size:
            raise DamagedError(f"{name} has {len(data)} bytes instead of {size}")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedError(f"{name} does not match its sha256")
    state: Any = None
    tensors: dict[str, dict[str, Tensor]] = {}
    texts: dict[str, str] = {}
    for name, data in contents.items():
        try:
            if name == STATE:
                state = parse(data.decode())
            elif name.endswith(TENSORS):
                tensors[name.removesuffix(TENSORS)] = safetensors.torch.load(data)
            else:
                texts[name] = data.decode()
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise DamagedError(f"{name} does not parse: {error}") from None
    if not isinstance(state, dict):
        raise DamagedError(f"{STATE} holds no state")
    return Checkpoint(step=step, tensors=tensors, state=cast("dict[str, Any]", state), texts=texts)


def is_foreign(path: Path, step: int) -> bool:
    """Return whether a checkpoint is one that this version cannot read, or that cannot be opened just now."""
    try:
        for name in _manifest(path, step):
            (path / name).open("rb").close()
    except (DamagedError, OSError) as error:
        return not isinstance(error, FileNotFoundError) and type(error) is not DamagedError
    return False


def _manifest(path: Path, step: int) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of every file.

    That the text is canonical and holds a digest of its other keys is promised for every later schema as well: so a
    newer one is told from a damaged one.
    """
    try:
        text = _content(path, MANIFEST).decode()
        value = parse(text)
        body = {key: item for key, item in value.items() if key != "sha256"} if isinstance(value, dict) else {}
        unchanged = canonical({**body, "sha256": digest(body)}) == text
    except ValueError as error:
        raise DamagedError(f"{MANIFEST} does not parse: {error}") from None
    if not unchanged:
        raise DamagedError(f"{MANIFEST} was changed after it was written")
    schema = body.get("schema")
    if schema != SCHEMA_VERSION:
        newer = isinstance(schema, int) and schema > SCHEMA_VERSION
        kind, of = (NewerError, "of a newer smallvit") if newer else (ForeignError, "not known")
        raise kind(f"{MANIFEST} has schema {schema}, {of}: this version reads {SCHEMA_VERSION}")
    if body.get("step") != step:
        raise DamagedError(f"{MANIFEST} is that of step {body.get('step')}")
    entries = body.get("files")
    if not isinstance(entries, dict) or STATE not in entries or not all(map(_FILE.fullmatch, entries)):
        raise DamagedError(f"{MANIFEST} does not list the files")
    try:
        return {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in entries.items()}
    except (TypeError, KeyError, ValueError):
        raise DamagedError(f"{MANIFEST} does not list the files") from None


def _content(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"{name} is missing") from None
    except OSError as error:
        raise ForeignError(f"{name} cannot be read: {error.strerror or error}") from None
