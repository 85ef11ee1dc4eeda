"""Many images to one uint8 array, in threads, behind a progress bar; and what became of files.

Shapes: n images, H height, W width.
"""

import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smallvit.console import first_few
from smallvit.cores import usable_cores
from smallvit.data.decode import DARK, FOURTH_BAND, FRAMES, LONG, BadImageError, decode_upright, fit_image

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
_CHUNK = 8
_MOST_THREADS = 16
"""Each holds a whole picture, of 24 megapixels say."""


def decode_all(
    items: Sequence[Item], decode: Callable[[Item], UInt8[np.ndarray, "H W 3"]], *, size: int, title: str
) -> UInt8[np.ndarray, "n 3 H W"]:
    """Return all items decoded, in order; the first failing item's error is raised.

    An error or an interrupt lets each thread end the item that it is at, and no more. On a terminal a progress bar runs
    on stderr under `title`.
    """
    images = np.empty((len(items), 3, size, size), dtype=np.uint8)
    ended = threading.Event()

    def fill(start: int) -> int:
        stop = min(start + _CHUNK, len(items))
        for i in range(start, stop):
            if ended.is_set():
                break
            images[i] = decode(items[i]).transpose(2, 0, 1)
        return stop - start

    # The filter is process-wide, so it is set here once and not in the threads.
    with (
        warnings.catch_warnings(),
        _progress(len(items)) as progress,
        ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as pool,
    ):
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        task = progress.add_task(title, total=len(items))
        try:
            for count in pool.map(fill, range(0, len(items), _CHUNK)):
                progress.advance(task, count)
        finally:
            ended.set()
    return images


@dataclass(frozen=True, kw_only=True, eq=False)
class Files:
    """What became of files."""

    images: UInt8[np.ndarray, "n 3 H W"]
    """Upright, as RGB, fitted to the size; of a broken file black."""
    broken: dict[Path, str]
    """What is wrong with those that cannot be used, by path."""
    lossy: dict[str, list[Path]]
    """Those of which much is lost, by what is told of them; sorted."""

    def notes(self, root: Path | None = None) -> list[str]:
        """Return what is told of those of which much is lost, the first few by name, within `root` if given."""
        told: list[str] = []
        for words, paths in self.lossy.items():
            named = first_few(path if root is None else path.relative_to(root) for path in paths)
            told.append(f"{len(paths):,} of {len(self.images):,} pictures {words}: {named}")
        return told


def decode_files(
    paths: Sequence[Path], *, size: int, title: str, look: Callable[[Path, Image.Image], None] | None = None
) -> Files:
    """Return files' images fitted to `size`; `look` is called with each upright image at its full size."""
    broken: dict[Path, str] = {}
    lossy: dict[str, list[Path]] = {words: [] for words in (FRAMES, DARK, FOURTH_BAND, LONG)}

    def decode(path: Path) -> UInt8[np.ndarray, "H W 3"]:
        try:
            upright = decode_upright(path, lambda words: lossy[words].append(path))
        except BadImageError as error:
            broken[path] = str(error)  # the error itself would keep the pixels
            return np.zeros((size, size, 3), dtype=np.uint8)
        if look is not None:
            look(path, upright)
        return fit_image(upright, size)

    images = decode_all(paths, decode, size=size, title=title)
    return Files(
        images=images,
        broken=dict(sorted(broken.items())),
        lossy={words: sorted(found) for words, found in lossy.items() if found},
    )


def _progress(count: int) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    words = TextColumn("{task.description}", markup=False)
    columns = (words, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not (count and sys.stderr.isatty()))
