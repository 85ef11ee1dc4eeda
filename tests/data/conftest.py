"""A small data set in the shape of CIFAR-10, writers of it in every public form, and processes that load it."""

import io
import os
import pickle
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smallvit.data.config import DataConfig
from smallvit.data.spec import SPECS, DatasetSpec
from smallvit.data.store import Dataset, load_from_spec

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass
class Small:
    """30 train and 12 test images of 3 classes, 32 x 32, in the row order of the 'official' batches."""

    spec: DatasetSpec
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    def encode(self, pixels: np.ndarray, kind: str) -> bytes:
        return encoded(pixels, kind)

    def png(self, split: str, row: int) -> bytes:
        return encoded(self.images[split][row].transpose(1, 2, 0))

    def cells(self, split: str, rows: np.ndarray) -> list[dict[str, object]]:
        return [
            {"img": {"bytes": self.png(split, r), "path": f"{r}.png"}, "label": int(self.labels[split][r])}
            for r in rows
        ]

    def write_cells(self, path: Path, cells: list[dict[str, object]], label: str = "label") -> None:
        schema = pa.schema([("img", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), (label, pa.int64())])
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(cells, schema=schema), path)

    def parquet(self, folder: Path, shards: int = 2, shuffle: int = 5) -> Path:
        for split in ("train", "test"):
            order = np.random.Generator(np.random.PCG64(shuffle)).permutation(len(self.labels[split]))
            for i, rows in enumerate(np.array_split(order, shards)):
                self.write_cells(folder / f"{split}-{i:05d}-of-{shards:05d}.parquet", self.cells(split, rows))
        return folder

    def binary_files(self) -> dict[str, bytes]:
        layout = self.spec.binary
        assert layout
        files: dict[str, bytes] = {}
        for split, names in (("train", layout.train), ("test", layout.test)):
            parts = np.array_split(np.arange(len(self.labels[split])), len(names))
            for name, rows in zip(names, parts, strict=True):
                table = np.concatenate(
                    [self.labels[split][rows, None].astype(np.uint8), self.images[split][rows].reshape(len(rows), -1)],
                    1,
                )
                files[name] = table.tobytes()
        return files

    def python_files(self, protocol: int = 2) -> dict[str, bytes]:
        layout = self.spec.python
        assert layout
        files: dict[str, bytes] = {}
        for split, names in (("train", layout.train), ("test", layout.test)):
            parts = np.array_split(np.arange(len(self.labels[split])), len(names))
            for name, rows in zip(names, parts, strict=True):
                batch = {
                    b"batch_label": b"batch of the tests",
                    b"labels": [int(x) for x in self.labels[split][rows]],
                    b"data": self.images[split][rows].reshape(len(rows), -1),
                    b"filenames": [f"{r}.png".encode() for r in rows],
                }
                files[name] = pickle.dumps(batch, protocol)
        return files

    def write(self, folder: Path, files: dict[str, bytes]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder

    def tar(self, archive: Path, inner: str, files: dict[str, bytes], mode: str = "w:gz") -> Path:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive, mode) as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(f"{inner}/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return archive


@pytest.fixture
def small() -> Small:
    rng = np.random.Generator(np.random.PCG64(1))
    spec = replace(
        SPECS["cifar10"],
        name="small",
        class_names=("ant", "bee", "cat"),
        train_size=30,
        test_size=12,
        train_sha256=None,
        test_sha256=None,
    )
    images = {s: rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for s, n in (("train", 30), ("test", 12))}
    labels = {s: rng.permutation(np.arange(n) % 3) for s, n in (("train", 30), ("test", 12))}
    return Small(spec=spec, images=images, labels=labels)


@pytest.fixture
def load(small, tmp_path: Path) -> Callable[..., Dataset]:
    def run(root: Path, size: int = 32, **changes: object) -> Dataset:
        config = DataConfig(dataset="cifar10", root=root, cache=tmp_path / "cache", val_fraction=0.2)
        return load_from_spec(replace(small.spec, **changes), config, image_size=size)

    return run


@pytest.fixture
def small_load(small: Small, tmp_path: Path) -> Callable[..., Dataset]:
    def run(
        root: Path | None, size: int = 32, cache: Path = tmp_path / "cache", spec: DatasetSpec = small.spec
    ) -> Dataset:
        return load_from_spec(spec, DataConfig(dataset="cifar10", root=root, cache=cache), image_size=size)

    return run


# A process of its own that loads tests' small set: it reads the spec by pickle and prints digests and notes.
CHILD = """
import os, pickle, signal, sys
from pathlib import Path
from smallvit.data.config import DataConfig
from smallvit.data.split import digest
from smallvit.data.store import load_from_spec

kill_at, calls = int(os.environ.get("KILL_AT", "0")), 0

def counted(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

os.fsync, os.rename, os.mkdir = map(counted, (os.fsync, os.rename, os.mkdir))
if os.environ.get("AS_NOBODY"):  # whose reach does not extend to the interpreter's folder: import first
    import pyarrow.parquet, rich.progress
    from PIL import Image
    Image.init()
    os.seteuid(65534)
spec = pickle.loads(Path(sys.argv[1]).read_bytes())
root = None if sys.argv[2] == "-" else Path(sys.argv[2])
config = DataConfig(dataset="cifar10", root=root, cache=Path(sys.argv[3]))
data = load_from_spec(spec, config, image_size=32)
print(digest(data.train), *data.notes, sep="\\n")
"""


class Runner:
    def __init__(self, small, folder: Path) -> None:
        self.folder = folder
        self.root = small.parquet(folder / "root")
        self.cache = folder / "cache"
        (folder / "spec").write_bytes(pickle.dumps(small.spec))
        (folder / "child.py").write_text(CHILD, encoding="utf-8")

    def start(
        self, *, root: str | None = None, kill_at: int = 0, nobody: bool = False, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        arguments = [str(self.folder / "child.py"), str(self.folder / "spec"), root or str(self.root), str(self.cache)]
        environment = {**os.environ, "KILL_AT": str(kill_at), "HF_HUB_OFFLINE": "1"}
        environment |= {"AS_NOBODY": "1"} if nobody else {}
        pipes = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True}
        return subprocess.Popen([sys.executable, *arguments], env=environment, **pipes)

    def run(self, **options: object) -> list[str]:
        process = self.start(**options)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert error == ""
        return out.splitlines()

    def entries(self) -> list[Path]:
        return [path for path in self.cache.iterdir() if not path.name.startswith(".")]

    def leftovers(self) -> list[Path]:
        return [path for path in self.cache.iterdir() if re.fullmatch(r"\..+\.\d+-[0-9a-f]{8}", path.name)]


@pytest.fixture
def runner(small, tmp_path: Path) -> Runner:
    return Runner(small, tmp_path)


@pytest.fixture
def runner_in(small: Small) -> Callable[[Path], Runner]:
    return lambda folder: Runner(small, folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: it holds the real CIFAR files, which are not part of the project")
    return SHARED
