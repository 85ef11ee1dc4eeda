"""The real sets, from the lossless copies that stand beside the checkout."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smallvit.data.config import DataConfig
from smallvit.data.spec import SPECS
from smallvit.data.split import digest
from smallvit.data.store import Dataset, load_dataset


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


START = """
import sys, time
from pathlib import Path
from smallvit.data.config import DataConfig
from smallvit.data.store import load_dataset
data = load_dataset(DataConfig(dataset=sys.argv[3], cache=Path(sys.argv[1]), root=Path(sys.argv[2])))
print(len(data.train), time.process_time(), "torch" in sys.modules)
"""


def start(cache: Path, shared_data: Path, name: str = "cifar10") -> float:
    """Load a set in its own process, so without the tests' shape checks, and return its processor seconds."""
    arguments = [sys.executable, "-c", START, str(cache), str(shared_data / name), name]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    length, seconds, torch = done.stdout.split()
    assert (length, torch) == ("45000", "False")
    return float(seconds)


@pytest.fixture(scope="module")
def first_start(cache: Path, shared_data: Path) -> float:
    return start(cache, shared_data)


@pytest.fixture(scope="module")
def cifar10(first_start: float, cache: Path) -> Dataset:
    assert first_start
    return load_dataset(DataConfig(dataset="cifar10", cache=cache))


def test_cifar10_is_the_official_release_divided_by_class(cifar10: Dataset) -> None:
    assert cifar10.notes == (), "the pinned digests hold, or a note would say that they do not"
    assert cifar10.val is not None
    counts = [np.bincount(split.labels).tolist() for split in (cifar10.train, cifar10.val, cifar10.test)]
    assert counts == [[4500] * 10, [500] * 10, [1000] * 10]
    assert digest(cifar10.test) == SPECS["cifar10"].test_sha256
    seen = {image.tobytes() for split in (cifar10.train, cifar10.val, cifar10.test) for image in split.images}
    assert len(seen) == 60_000


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_published_digests_and_statistics_are_those_of_the_release(
    name: str, first_start: float, shared_data: Path, cache: Path
) -> None:
    if name != "cifar10":
        start(cache, shared_data, name)
    spec = SPECS[name]
    data = load_dataset(DataConfig(dataset=name, root=shared_data, cache=cache, val_fraction=0.0))
    assert data.notes == ()
    assert (digest(data.train), digest(data.test)) == (spec.train_sha256, spec.test_sha256)
    assert set(np.bincount(data.test.labels)) == {10_000 // spec.num_classes}
    assert isinstance(data.train.images, np.memmap), "nothing is copied where nothing is held out"
    levels = np.arange(256) / 255
    for channel in range(3):
        counts = np.bincount(data.train.images[:, channel].ravel(), minlength=256)
        mean = np.average(levels, weights=counts)
        assert mean == pytest.approx(spec.mean[channel], abs=1e-4)
        assert np.average((levels - mean) ** 2, weights=counts) ** 0.5 == pytest.approx(spec.std[channel], abs=1e-4)


def test_the_second_start_decodes_nothing(first_start: float, shared_data: Path, cache: Path) -> None:
    # Processor seconds, in all threads together, and not an absolute number of them: other processes share the machine.
    assert any(start(cache, shared_data) < 0.1 * first_start for _ in range(5))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_class_names_are_in_the_official_alphabetical_order(name: str) -> None:
    names = SPECS[name].class_names
    assert len(set(names)) == {"cifar10": 10, "cifar100": 100}[name]
    assert list(names) == sorted(names)


def test_labels_carry_the_names_that_the_files_carry(shared_data: Path) -> None:
    import pyarrow.parquet as pq

    spec = SPECS["cifar100"]
    table = pq.read_table(shared_data / "cifar100" / "test-00000-of-00001.parquet", columns=["img", "fine_label"])
    paths = [cell["path"] for cell in table.column("img").to_pylist()]
    labels = table.column("fine_label").to_pylist()
    # The original file names begin with a word of WordNet; for most classes some file has the class's own name.
    agreeing = {
        label for path, label in zip(paths, labels, strict=True) if path.startswith(spec.class_names[label] + "_s_")
    }
    assert len(agreeing) > 90
