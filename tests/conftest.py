"""Types are checked at every call while the tests run, and shapes and dtypes where jaxtyping writes them.

jaxtyping's check costs ten times beartype's alone, so only the modules that write shapes have it, and those with types
that are imported for type checkers alone, over which beartype's hook stumbles.

Also here: oracles that others wrote (torchvision, timm; the `oracle` extra) and golden files. A golden file is
rewritten with `pytest --update-golden`; read its diff before committing it.
"""

import importlib.util
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from beartype.claw import beartype_package
from hypothesis import settings
from jaxtyping import install_import_hook

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell has it of what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("smallvit", deadline=None)  # a machine may be busy with other things
settings.load_profile("smallvit")


def _for_jaxtyping() -> list[str]:
    package = importlib.util.find_spec("smallvit")
    assert package is not None
    assert package.origin is not None
    root = Path(package.origin).parent
    sources = {path.relative_to(root): path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    chosen = [path for path, text in sources.items() if "from jaxtyping" in text or "TYPE_CHECKING" in text]
    return [".".join((root.name, *path.with_suffix("").parts)) for path in chosen if path.stem != "__init__"]


install_import_hook(_for_jaxtyping(), "beartype.beartype")
beartype_package("smallvit")

import pytest  # noqa: E402  # after the hooks, as is everything that may import smallvit
import torch  # noqa: E402

from kept_digits import keep_digits  # noqa: E402
from smallvit.bench.peers import import_beside_torch  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
LONG = (
    *("test_distributed", "test_ranks", "test_interrupted", "test_full_disk", "test_ray", "test_slurm"),
    *("test_processes", "test_fast_path", "test_compile", "test_readme", "test_cli_runs", "test_resume"),
    *("test_job", "test_refused", "test_no_numbers"),  # with what others above have made
)
"""Modules that take long, or whose fixtures do."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files with what the code does now"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take long come first: what one worker takes off another in the end is short."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session", autouse=True)
def shared_digits() -> None:
    keep_digits()


@pytest.fixture(scope="session", autouse=True)
def no_flushing() -> None:
    """Nothing is lost that a test writes but by a loss of power. Processes that a test starts do flush."""
    pytest.MonkeyPatch().setattr(os, "fsync", os.fstat)  # as strict about what is no open file


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The user's cache is not read or written, by no process either that a test starts."""
    os.environ["SMALLVIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A run sets torch's threads for good, and with another number of them sums round otherwise."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], Any]:
    """Return `read(name, now)`, the content of tests/golden/<name>; with --update-golden it is `now`, written there."""

    def read(name: str, now: Any) -> Any:
        if request.config.getoption("--update-golden"):
            GOLDEN.mkdir(exist_ok=True)
            (GOLDEN / name).write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return json.loads((GOLDEN / name).read_text(encoding="utf-8"))

    return read


def _oracle(name: str) -> ModuleType:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: it comes with the oracle extra")
    return import_beside_torch(name)


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    return _oracle("torchvision")


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    return _oracle("timm")
