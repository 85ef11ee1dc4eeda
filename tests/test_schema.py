"""What earlier versions wrote is still read, and is still the same run."""

import json
from pathlib import Path
from typing import Any

import pytest

from smallvit.config import RunConfig
from smallvit.errors import SmallvitError
from smallvit.model.config import ModelConfig
from smallvit.record import RunRecord
from smallvit.schema import CONFIG_SCHEMA, RECORD_SCHEMA
from smallvit.strict_json import digest
from smallvit.train.config import CheckpointConfig, OptimConfig, TrainConfig

ROOT = Path(__file__).parents[1]
FIRST = ROOT / "results" / "runs" / "quickstart" / "seed0.json"
"""Written by the version whose schemas were 1 and 1."""


@pytest.fixture
def first() -> dict[str, Any]:
    value = json.loads(FIRST.read_text())
    assert (value["schema"], value["config"]["schema"]) == (1, 1)
    return value


def test_a_field_added_later_means_what_was_done_before(first: dict[str, Any]) -> None:
    config, record = RunConfig.from_json(first["config"]), RunRecord.from_json(first)
    assert (config.checkpoint, config.fork, config.scale) == (CheckpointConfig(), None, 1.0)
    assert (config.train.on_nonfinite, config.train.max_skips) == ("stop", TrainConfig().max_skips)
    assert config.optim.muon_qkv == "fused"
    assert config.optim.lr_scaling == OptimConfig().lr_scaling == "none"
    assert config.model.tokenizer == ModelConfig().tokenizer == "patch"
    assert config.model.tokenizer_depth == ModelConfig().tokenizer_depth == 1
    assert (config.train.ema_decay, config.train.loss, config.augment.flip) == (0.0, "cross-entropy", "random")
    assert (record.world_size, record.resumed_at_steps, record.skipped_steps) == (1, [], [])


def test_an_upgraded_config_is_written_in_the_newest_schema(first: dict[str, Any]) -> None:
    config, record = RunConfig.from_json(first["config"]), RunRecord.from_json(first)
    assert (config.to_json()["schema"], record.to_json()["schema"]) == (CONFIG_SCHEMA, RECORD_SCHEMA)
    assert RunConfig.from_json(config.to_json()) == config
    assert RunRecord.from_json(record.to_json()) == record


def test_an_edited_record_of_an_earlier_schema_is_refused(first: dict[str, Any]) -> None:
    first["test"]["correct"] += 1
    with pytest.raises(SmallvitError, match="was changed after it was written"):
        RunRecord.from_json(first)


def test_an_unknown_key_is_refused_in_an_earlier_schema_too(first: dict[str, Any]) -> None:
    body = {key: value for key, value in first.items() if key != "sha256"} | {"extra": 1}
    with pytest.raises(SmallvitError, match=r"record\.extra is not known"):
        RunRecord.from_json({**body, "sha256": digest(body)})
    with pytest.raises(SmallvitError, match=r"config\.train\.epoch is not known to this version: did you mean epochs"):
        RunConfig.from_json({**first["config"], "train": {**first["config"]["train"], "epoch": 1}})
    with pytest.raises(SmallvitError, match=r"config\.train is 3"):
        RunConfig.from_json({**first["config"], "train": 3})


@pytest.mark.parametrize("other", [[], {"schema": 9}, {"schema": 2, "config_digest": "0" * 64}])
def test_another_file_is_called_no_record(other: Any) -> None:
    with pytest.raises(
        SmallvitError, match=r"^a\.json is no record of a run, which record\.json and seed<k>\.json are$"
    ):
        RunRecord.from_json(other, "a.json")


@pytest.mark.parametrize("schema", [None, 0, max(CONFIG_SCHEMA, RECORD_SCHEMA) + 1, "1", True])
def test_a_schema_that_is_not_known_is_named_with_those_that_are(schema: Any, first: dict[str, Any]) -> None:
    for read, value, newest in (
        (RunConfig.from_json, first["config"], CONFIG_SCHEMA),
        (RunRecord.from_json, first, RECORD_SCHEMA),
    ):
        with pytest.raises(SmallvitError, match=f"has schema {schema}: this version of smallvit reads 1 to {newest}$"):
            read({**value, "schema": schema})


def test_what_makes_two_configs_different_runs_is_said_field_by_field() -> None:
    mine = RunConfig(train=TrainConfig(epochs=20))
    theirs = RunConfig(recipe="x", optim=OptimConfig(lr_scaling="sqrt"), checkpoint=CheckpointConfig(best=True))
    assert mine.differences(mine) == []
    assert mine.differences(theirs) == ["optim.lr_scaling is none, not sqrt", "train.epochs is 20, not 100"]


def test_a_batch_sets_the_rate_only_where_it_is_asked_to() -> None:
    rates = {kind: OptimConfig(lr=2e-3, lr_scaling=kind).scaled_lr(1024) for kind in ("none", "sqrt", "linear")}
    assert rates == {"none": 2e-3, "sqrt": 4e-3, "linear": 8e-3}
    assert OptimConfig(lr_scaling="linear").scaled_lr(256) == OptimConfig().lr
