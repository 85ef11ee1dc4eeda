"""A study of tiny runs: finished ones are kept, broken ones do not stop the rest, another run's record is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from smallvit import cli
from smallvit.augment.config import AugmentConfig
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError
from smallvit.model.config import ModelConfig
from smallvit.record import RunRecord
from smallvit.study.local import read_records, run_study
from smallvit.study.rows import Row, Study
from smallvit.study.studies import STUDIES
from smallvit.train.config import OptimConfig, TrainConfig

BASE = RunConfig(
    recipe="plain",
    data=DataConfig(dataset="digits"),
    augment=AugmentConfig(horizontal_flip=0.0),
    model=ModelConfig(patch_size=16, embed_dim=8, depth=1, num_heads=1),
    optim=OptimConfig(warmup_epochs=0.0),
    train=TrainConfig(epochs=1, passes_per_epoch=1, batch_size=200),
    device=DeviceConfig(device="cpu", precision="float32"),
)
QUIET = Console(quiet=True)


def study(**changes: RunConfig) -> Study:
    configs = {"plain": BASE, "erase": replace(BASE, recipe="erase", augment=AugmentConfig(erase_probability=0.25))}
    rows = tuple(Row(label=f"{name} row", config=config) for name, config in (configs | changes).items())
    return Study(name="tiny", title="Tiny", budget="Little", reference="plain row", rows=rows, seeds=(0, 1))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_is_finished_is_kept_and_the_rest_is_run(tmp_path: Path) -> None:
    assert run_study(study(), tmp_path, None, 1, QUIET) == []
    paths = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed*/record.json")}
    assert len(paths) == 4
    (gone := tmp_path / "erase" / "seed1" / "record.json").unlink()
    assert run_study(study(), tmp_path, None, 1, QUIET) == []
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed*/record.json")}
    assert {path for path in paths if again[path] != paths[path]} == {gone}
    records = read_records(study(), tmp_path)
    assert [[record.config["seed"] for record in runs] for runs in records.values()] == [[0, 1], [0, 1]]


def test_a_failed_run_is_reported_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    broken = replace(BASE, recipe="erase", optim=OptimConfig(lr=1e38, warmup_epochs=0.0))
    failed = run_study(study(erase=broken), tmp_path, None, 1, QUIET)
    assert [line.split(":")[0] for line in failed] == ["erase row, seed 0", "erase row, seed 1"]
    assert all("try a lower optim.lr" in line for line in failed)
    assert [len(runs) for runs in read_records(study(erase=broken), tmp_path).values()] == [2, 0]


def test_a_record_of_another_run_is_refused_before_anything_runs(tmp_path: Path) -> None:
    run_study(replace(study(), seeds=(0,)), tmp_path, None, 1, QUIET)
    other = study(erase=replace(BASE, recipe="erase"))
    with pytest.raises(SmallvitError, match=r"another run than tiny's: augment\.horizontal_flip is 0\.5, not 0\.0"):
        run_study(other, tmp_path, None, 1, QUIET)
    assert not (tmp_path / "plain" / "seed1").exists()


def test_the_command_runs_and_prints_the_table_of_records_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STUDIES, "augmentation", study)
    assert cli.main(["study", "augmentation", "--out", str(tmp_path), "--num-threads", "1"]) == 0
    table = capsys.readouterr().out.split("\n\n")[-1 - 1]
    record = RunRecord.load(tmp_path / "plain" / "seed0" / "record.json")
    assert f"| plain row | 2 | {100 * record.test.accuracy:.2f}, " in table
    assert "| erase row | 2 |" in table
    assert table.count("resolved") == 1
    for path in tmp_path.glob("*/seed*/record.json"):  # as results/runs has them
        path.rename(path.parent.with_name(f"{path.parent.name}.json"))
    assert cli.main(["study", "augmentation", "--out", str(tmp_path), "--table-only"]) == 0
    assert table in capsys.readouterr().out


def test_rows_differ_from_the_reference_in_the_augmentation_alone() -> None:
    found = STUDIES["augmentation"]()
    reference = next(row for row in found.rows if row.label == found.reference)
    for row in found.rows:
        assert all(text.startswith("augment.") for text in reference.config.differences(row.config))
        assert json.loads(json.dumps(row.config.to_json()))["recipe"].startswith("augment-")
    assert len({row.config.digest() for row in found.rows}) == len(found.rows) == 7
