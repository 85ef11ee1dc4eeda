"""What the studies of real processes are compared with."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from smallvit.study.execute import run_study
from tiny_study import ONE_THREAD, HereEngine, long_study, seldom, told


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return what a run of the long study comes to, by its seed's folder, when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_study(seldom(long_study()), folder, HereEngine(), Console(quiet=True), use=ONE_THREAD)
    found = {f"seed{seed}": told(folder / "long" / f"seed{seed}") for seed in long_study().seeds}
    return found.__getitem__
