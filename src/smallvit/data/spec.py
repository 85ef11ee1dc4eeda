"""One row a data set: its classes, statistics, public files and checksums. Free of heavy imports.

CIFAR-10 and CIFAR-100: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. Digits: Alpaydin and Kaynak, UCI, 1998, https://doi.org/10.24432/C50P49.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """The columns of the parquet form, and the hub repository that serves it."""

    repository: str
    revision: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    image_column: str
    label_column: str


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The official batches, as a folder or as the archive that holds the folder."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BinaryBatches(Batches):
    """Records of `label_bytes` labels, of which `label_index` is ours, then the three colour planes."""

    label_bytes: int
    label_index: int


@dataclass(frozen=True, kw_only=True)
class PythonBatches(Batches):
    """Pickled dictionaries with `data` and, under `label_key`, the labels."""

    label_key: str


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What is known of a data set before its bytes are read."""

    name: str
    title: str
    """What it is called in sentences."""
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    """Per channel over train, in units of 0..1."""
    std: tuple[float, float, float]
    horizontal_flip: bool | None
    """Whether a mirror image keeps its class; None where only its owner knows."""
    native_size: int = 0
    """Height and width in pixels as published; 0 where every image has its own."""
    train_size: int
    test_size: int
    """0: no test split of its own, so test is held out of train."""
    licence: str = ""
    attribution: str = ""
    """Who made it; of users' own folders nothing is known."""
    parquet: Parquet | None = None
    binary: BinaryBatches | None = None
    python: PythonBatches | None = None
    train_sha256: str | None = None
    """Of the decoded pixels and labels in canonical order (see `split.digest`); None where nothing is published."""
    test_sha256: str | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


_CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

_DIGITS = DatasetSpec(
    name="digits",
    title="digits",
    class_names=tuple("0123456789"),
    mean=(0.309, 0.309, 0.309),
    std=(0.349, 0.349, 0.349),
    horizontal_flip=False,
    native_size=8,
    train_size=1797,
    test_size=0,
    licence="CC BY 4.0",
    attribution="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning "
    "Repository, 1998, https://doi.org/10.24432/C50P49",
)

_CIFAR10 = DatasetSpec(
    name="cifar10",
    title="CIFAR-10",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    horizontal_flip=True,
    native_size=32,
    train_size=50_000,
    test_size=10_000,
    licence="none stated; free for research with citation",
    attribution="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    parquet=Parquet(
        repository="uoft-cs/cifar10",
        revision="0b2714987fa478483af9968de7c934580d0bb9a2",
        train=("plain_text/train-00000-of-00001.parquet",),
        test=("plain_text/test-00000-of-00001.parquet",),
        image_column="img",
        label_column="label",
    ),
    binary=BinaryBatches(
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        label_bytes=1,
        label_index=0,
    ),
    python=PythonBatches(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test=("test_batch",),
        label_key="labels",
    ),
    train_sha256="13af33390c3232cb9ad1cabd4ba2e7a5fe32ba38bf9c9663e3a2f82ebc337c8a",
    test_sha256="83dae1ca5c5bc10b948955996d7bf310108ea2f6116826b5cc7a633630507456",
)

_CIFAR100 = DatasetSpec(
    name="cifar100",
    title="CIFAR-100",
    class_names=tuple(_CIFAR100_CLASSES.split()),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    horizontal_flip=True,
    native_size=32,
    train_size=50_000,
    test_size=10_000,
    licence="none stated; free for research with citation",
    attribution="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    parquet=Parquet(
        repository="uoft-cs/cifar100",
        revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5",
        train=("cifar100/train-00000-of-00001.parquet",),
        test=("cifar100/test-00000-of-00001.parquet",),
        image_column="img",
        label_column="fine_label",
    ),
    binary=BinaryBatches(
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        train=("train.bin",),
        test=("test.bin",),
        label_bytes=2,
        label_index=1,
    ),
    python=PythonBatches(
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        train=("train",),
        test=("test",),
        label_key="fine_labels",
    ),
    train_sha256="1f59d1b0ad3ba78e3070a6bd762482c545e065bdf768b6a2e7a451d06ebe9bbc",
    test_sha256="1c35fbe89e9edba3ed9f5d4fb1c3470552a09c3c627e230433edef82fc3d9ac7",
)

SPECS: dict[str, DatasetSpec] = {spec.name: spec for spec in (_DIGITS, _CIFAR10, _CIFAR100)}
