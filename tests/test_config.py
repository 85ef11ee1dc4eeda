"""RunConfig to JSON and strictly back, its digest, and every recipe's whole config."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvit.augment.config import AugmentConfig
from smallvit.checks import is_number
from smallvit.cli import main
from smallvit.config import EvaluateConfig, RunConfig
from smallvit.data.config import DataConfig
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.model.config import ModelConfig
from smallvit.recipes import RECIPES, read_recipe
from smallvit.strict_json import to_json
from smallvit.train.config import OptimConfig, TrainConfig

RESULTS = Path(__file__).parents[1] / "results"
UNIT = st.floats(0, 1)
BELOW_ONE = st.floats(0, 1, exclude_max=True)
RANGE = st.tuples(st.floats(1e-3, 0.5), st.floats(0.5, 1))


def choices(kind: type, *names: str) -> dict[str, st.SearchStrategy[Any]]:
    hints = get_type_hints(kind)
    return {name: st.sampled_from(get_args(hints[name])) for name in names}


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("train", "batch_size", 0, "it must be a whole number, at least 1"),
        ("train", "passes_per_epoch", 0, "it must be a whole number, at least 1"),
        ("train", "repeats_in_batch", 257, "it must be at most batch_size, 256"),
        ("train", "max_skips", 0, "it must be a whole number, at least 1"),
        ("train", "logit_adjustment", 11.0, "it must be a number, at least 0 and at most 10"),
        ("checkpoint", "every_seconds", -1.0, "it must be a number, at least 0"),
        ("evaluate", "batch_size", 0, "it must be a whole number, at least 1"),
        ("device", "num_threads", 0, "it must be a whole number, from 1 to 1024"),
        ("optim", "betas", (0.9, 1.0), "a tuple of two numbers, each at least 0 and below 1, or None"),
        *(("optim", name, 1e16, "it must be a number, ") for name in ("lr", "weight_decay", "clip_norm")),
        ("optim", "clip_norm", 0.0, "it must be a number, above 0 and at most 1e+15, or None"),
        ("model", "layer_scale", 1e16, "it must be a number, at least 0 and at most 1e+15, or None"),
        ("model", "drop_path_rate", 0.99999999, "it must be a number, at least 0 and at most 0.999"),
        ("augment", "affine_scale", (1e-40, 1.0), "two numbers, 0.001 <= smallest <= largest <= 1000"),
        ("augment", "erase_area", (0.0, 1.0), "two numbers, 0 < smallest <= largest <= 1"),
        ("data", "cache", Path("a\0b"), "it can be no path"),
        ("data", "cache", Path("\ud800"), "it can be no path"),
    ],
)
def test_numbers_beyond_their_bounds_are_refused(section: str, field: str, value: Any, words: str) -> None:
    kind = type(getattr(RunConfig(), section))
    with pytest.raises(UsageError) as refused:
        kind(**{field: value})
    assert str(refused.value).startswith(f"{section}.{field} is ")
    assert words in str(refused.value)


def test_numpys_floats_and_texts_are_as_pythons() -> None:
    """A search takes its rates from an array."""
    assert [type(to_json(value)) for value in (np.float64(0.5), np.str_("lion"))] == [float, str]
    optim = OptimConfig(lr=np.float64(0.002), betas=(np.float64(0.9), 0.95))
    ours = OptimConfig(lr=0.002, betas=(0.9, 0.95))
    assert RunConfig(optim=optim).digest() == RunConfig(optim=ours).digest()
    assert RunConfig.from_json(RunConfig(optim=optim).to_json()) == RunConfig(optim=ours)


def test_a_recipe_in_a_file_is_no_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**RunConfig().to_json(), "recipe": "--help"}))
    assert main(["train", str(tmp_path / "a.json")]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "recipe is '--help': a name that begins with - would be an option" in told.err


def test_a_whole_number_that_no_float_holds_is_refused() -> None:
    for wrong in (10**400, -(10**400)):
        assert not is_number(wrong)
        with pytest.raises(SmallvitError, match=r"config\.scale is -?1000.*expected a finite number"):
            RunConfig.from_json({**BASE.to_json(), "scale": wrong})


def test_words_and_kinds_that_are_not_allowed_are_refused_in_python_too() -> None:
    """Without the tests' run-time checker, which would speak first."""
    wrong = [
        *(f"train.config import OptimConfig as C; C({name}='x')" for name in ("optimizer", "decay_on", "lr_scaling")),
        *(f"train.config import TrainConfig as C; C({name}='x')" for name in ("on_nonfinite", "loss")),
        "train.config import OptimConfig as C; C(optimizer='muon', muon_qkv='x')",
        *(
            f"augment.config import AugmentConfig as C; C({name}='x')"
            for name in ("flip", "policy", "policy_variant", "erase_fill", "mix_per")
        ),
        *(
            f"device.config import DeviceConfig as C; C({name}='x')"
            for name in ("device", "attention", "compile", "compile_mode", "prefetch", "cuda_graphs", "precision")
        ),
        "train.config import OptimConfig as C; C(betas=0.9)",
        "augment.config import AugmentConfig as C; C(affine_scale=1.1)",
    ]
    code = "from smallvit.errors import UsageError\n" + "\n".join(
        f"try:\n from smallvit.{each}\nexcept UsageError as error:\n print(error)\nelse:\n print('taken')"
        for each in wrong
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    for each, line in zip(wrong, told, strict=True):
        field = re.findall(r"(\w+)=", each)[-1]
        assert re.match(rf"\w+\.{field} is ", line), line


@st.composite
def data_fields(draw: st.DrawFn) -> dict[str, Any]:
    dataset = draw(st.sampled_from(["digits", "cifar10", "cifar100", "folder"]))
    paths = st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(Path)
    root = None if dataset == "digits" else draw(paths if dataset == "folder" else st.none() | paths)
    return {
        "dataset": dataset,
        "root": root,
        "cache": draw(st.none() | paths),
        "val_fraction": draw(BELOW_ONE),
        "test_fraction": draw(st.floats(0, 1, exclude_min=True, exclude_max=True)),
        "split_seed": draw(st.integers(0, 2**80)),
    }


@st.composite
def model_fields(draw: st.DrawFn) -> dict[str, Any]:
    heads, patch, tokens = draw(st.integers(1, 8)), draw(st.integers(1, 16)), draw(st.integers(0, 3))
    width, depth = heads * 4 * draw(st.integers(1, 16)), draw(st.integers(1, 20))
    latent = [draw(st.none() | st.integers(1, width)) for _ in "qkv"]
    tokenizers = [
        "patch",
        *(["conv", "conv-pool"] if patch in (2, 4, 8, 16) and width >= 16 else []),
        *(["shifted"] if patch > 1 else []),
    ]
    tokenizer = draw(st.sampled_from(tokenizers))
    convolved = ["random", "whiten"]
    first = {"patch": [*convolved, "whiten-paper"], "conv": convolved, "conv-pool": convolved, "shifted": ["random"]}
    return dict(
        image_size=patch * draw(st.integers(1, 8)),
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=draw(st.floats(1, 8)),
        num_cls_tokens=tokens,
        num_class_attention_blocks=draw(st.integers(0, 3)) if tokens else 0,
        latent_dim_q=latent[0],
        latent_dim_k=latent[1],
        latent_dim_v=latent[2],
        drop_path_rate=draw(st.floats(0, 0.999)),
        num_registers=draw(st.integers(1, 3)),
        tokenizer=tokenizer,
        tokenizer_depth=draw(st.integers(1, 4)) if tokenizer == "conv" else 1,
        patch_init=draw(st.sampled_from(first[tokenizer])),
        pooling=draw(st.sampled_from(["cls", "cls+mean"] if tokens else ["cls", "mean"])),
        layer_scale=draw(st.none() | UNIT),
        mlp_conv=draw(st.sampled_from(["none", "depthwise"])) if depth > 1 else "none",
        init=draw(st.sampled_from(["normal", "spectral" if any(latent) else "mimetic"])),
        **{name: draw(s) for name, s in choices(ModelConfig, "position", "head", "qk_norm", "locality").items()},
    )


@st.composite
def optim_fields(draw: st.DrawFn) -> dict[str, Any]:
    optimizer = draw(st.sampled_from(get_args(get_type_hints(OptimConfig)["optimizer"])))
    own = optimizer == "muon"
    return dict(
        optimizer=optimizer,
        lr=draw(st.floats(1e-12, 1e3)),
        weight_decay=draw(st.floats(0, 1e3)),
        betas=draw(st.none() | st.tuples(BELOW_ONE, BELOW_ONE)),
        warmup_epochs=draw(UNIT),
        muon_lr=draw(st.none() | st.floats(1e-12, 1e3)) if own else None,
        clip_norm=draw(st.none() | st.floats(1e-9, 1e3)),
        muon_weight_decay=draw(st.none() | st.floats(0, 1e3)) if own else None,
        muon_qkv=draw(st.sampled_from(["fused", "apart"])) if own else "fused",
        **{name: draw(s) for name, s in choices(OptimConfig, "decay_on", "schedule").items()},
    )


def fields(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(strategies)


PARTS: dict[type, st.SearchStrategy[dict[str, Any]]] = {
    DataConfig: data_fields(),
    AugmentConfig: fields(
        horizontal_flip=UNIT,
        crop_padding=st.integers(0, 64),
        resized_crop_area=RANGE,
        resized_crop_aspect=RANGE,
        affine_degrees=st.floats(0, 180),
        affine_translate=UNIT,
        affine_scale=RANGE,
        affine_shear=st.floats(0, 60),
        randaugment_num_ops=st.integers(1, 14),
        randaugment_magnitude=st.integers(0, 30),
        erase_probability=UNIT,
        erase_area=RANGE,
        erase_aspect=RANGE,
        cutmix_alpha=st.floats(0, 9),
        mixup_alpha=st.floats(0, 9),
        mix_probability=UNIT,
        **choices(AugmentConfig, "policy", "policy_variant", "erase_fill", "mix_per"),
    ),
    ModelConfig: model_fields(),
    OptimConfig: optim_fields(),
    TrainConfig: fields(
        epochs=st.integers(1, 10**6),
        passes_per_epoch=st.integers(1, 9),
        batch_size=st.integers(1, 10**6).map(lambda number: 6 * number),
        repeats_in_batch=st.sampled_from([1, 2, 3, 6]),
        label_smoothing=BELOW_ONE,
        ema_decay=BELOW_ONE,
        logit_adjustment=st.floats(0, 10),
    )
    | fields(loss=st.just("bce")),
    EvaluateConfig: fields(every_epochs=st.integers(1, 99), test_curve=st.booleans(), batch_size=st.integers(1, 9999)),
    DeviceConfig: fields(
        num_threads=st.none() | st.integers(1, 64),
        **choices(
            DeviceConfig,
            "device",
            "precision",
            "attention",
            "convolution",
            "compile",
            "compile_mode",
            "compile_augment",
            "prefetch",
            "cuda_graphs",
        ),
    ),
}
RUNS = fields(
    recipe=st.text().filter(lambda name: name[:1] != "-"),
    seed=st.integers(0, 2**80),
    **{kind.__name__: part for kind, part in PARTS.items()},
)


def built(drawn: dict[str, Any]) -> RunConfig:
    """Return the config of some drawn fields; not within a strategy, since beartype draws from `random`."""
    parts = {kind.__name__.removesuffix("Config").lower(): kind(**drawn[kind.__name__]) for kind in PARTS}
    return RunConfig(recipe=drawn["recipe"], seed=drawn["seed"], **parts)


SLOW = settings(max_examples=30)


def refusal(value: Any) -> str:
    with pytest.raises(SmallvitError) as caught:
        RunConfig.from_json(value)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@SLOW
@given(RUNS)
def test_json_round_trip_is_exact(drawn: dict[str, Any]) -> None:
    config = built(drawn)
    again = RunConfig.from_json(json.loads(json.dumps(config.to_json(), allow_nan=False)))
    assert again == config
    assert again.digest() == config.digest()
    assert again.to_json() == config.to_json()


def nodes(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from nodes(item, (*path, key))


def parent_of(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def dotted(path: tuple[str | int, ...]) -> str:
    return "config" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


WRONG: dict[type, list[Any]] = {
    bool: [0, 1, "true", None, []],
    int: [True, 1.5, "1", [1], {"x": 1}],
    float: [True, "0.5", [0.5], {"x": 1}, float("nan"), float("inf"), 10**400],
    str: [1, True, ["adam"], {"x": 1}, "no such word\n"],
    type(None): [True, {"x": 1}, [[1]]],
    list: [1, "ab", {}, [], [0.5, 0.6, 0.7], None, True],
    dict: [1, "ab", [], None, True],
}
FREE_TEXT = {("recipe",), ("data", "dataset"), ("data", "root"), ("data", "cache")}


@SLOW
@given(st.data(), RUNS)
def test_a_wrong_type_is_refused_by_its_dotted_path_at_any_depth(data: st.DataObject, drawn: dict[str, Any]) -> None:
    value = built(drawn).to_json()
    path = data.draw(st.sampled_from([path for path in nodes(value) if path != ("schema",)]))
    holder = parent_of(value, path)
    wrong = [w for w in WRONG[type(holder[path[-1]])] if not (isinstance(w, str) and path in FREE_TEXT)]
    if path == ("optim", "betas"):
        wrong = [w for w in wrong if w is not None]
    holder[path[-1]] = data.draw(st.sampled_from(wrong))
    assert dotted(path) + " is " in refusal(value) or dotted(path) + "." in refusal(value)


@SLOW
@given(st.data(), RUNS)
def test_a_missing_key_is_refused_by_its_dotted_path(data: st.DataObject, drawn: dict[str, Any]) -> None:
    value = built(drawn).to_json()
    later = added_later(RunConfig)
    needed = [p for p in nodes(value) if p != ("schema",) and isinstance(p[-1], str) and p not in later]
    path = data.draw(st.sampled_from(needed))
    del parent_of(value, path)[path[-1]]
    assert refusal(value) == f"{dotted(path)} is missing"


def added_later(kind: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the default of every field that takes part in the digest unless it has it, by path."""
    found: dict[tuple[str, ...], Any] = {}
    for field in dataclasses.fields(kind):
        path = (*above, field.name)
        if field.metadata.get("digest") == "unless default":
            found[path] = field.default
        if dataclasses.is_dataclass(field.default_factory):
            found |= added_later(field.default_factory, path)
    return found


def test_a_field_that_was_added_later_has_its_default_where_it_is_missing() -> None:
    value, later = RunConfig().to_json(), added_later(RunConfig)
    assert len(later) > 15
    for path in later:
        del parent_of(value, path)[path[-1]]
    assert RunConfig.from_json(value) == RunConfig()
    assert RunConfig.from_json(value).digest() == RunConfig().digest()


@given(st.text())
def test_any_unknown_key_is_one_line(key: str) -> None:
    value = RunConfig().to_json()
    if key not in value:
        assert "is not known" in refusal({**value, key: 1})


@pytest.mark.parametrize("value", [None, [], 3, {}])
def test_another_schema_is_refused(value: Any) -> None:
    assert "schema" in refusal(value)


def test_a_file_that_is_no_config_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    good = json.dumps(RunConfig().to_json())
    for text, expected in (
        ("{", "not a readable config"),
        (good.replace('"seed": 0', '"seed": "0"'), 'config.seed is "0": expected int'),
        (good.replace('"seed": 0', '"seed": 0, "seed": 1'), "'seed' appears twice"),
        (good.replace('"seed": 0', '"seed": NaN'), "NaN is not a JSON number"),
        (good.replace('"lr": 0.001', '"lr": -1'), "optim.lr is -1"),
        ("[" * 100_000, "nested too deeply"),
    ):
        path.write_text(text)
        with pytest.raises(SmallvitError) as caught:
            RunConfig.load(path)
        assert str(path) in str(caught.value)
        assert expected in str(caught.value)
        assert not isinstance(caught.value, UsageError)  # the file is wrong, not the request
    path.write_text(good)
    assert RunConfig.load(path) == RunConfig()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: OptimConfig(lr=float("inf")), "optim.lr"),
        (lambda: OptimConfig(lr=float("nan")), "optim.lr"),
        (lambda: OptimConfig(lr=0.0), "optim.lr"),
        (lambda: OptimConfig(weight_decay=float("inf")), "optim.weight_decay"),
        (lambda: OptimConfig(warmup_epochs=-1.0), "optim.warmup_epochs"),
        (lambda: TrainConfig(epochs=0), "train.epochs"),
        (lambda: TrainConfig(label_smoothing=1.0), "train.label_smoothing"),
        (lambda: TrainConfig(ema_decay=1.0), "train.ema_decay"),
        (lambda: TrainConfig(ema_decay=-0.1), "train.ema_decay"),
        (lambda: OptimConfig(muon_lr=0.1), "optim.muon_lr"),
        (lambda: OptimConfig(optimizer="muon", muon_lr=0.0), "optim.muon_lr"),
        (lambda: OptimConfig(optimizer="lion", muon_weight_decay=0.1), "optim.muon_weight_decay"),
        (lambda: OptimConfig(optimizer="lion", muon_qkv="apart"), "optim.muon_qkv"),
        (lambda: OptimConfig(optimizer="muon", muon_weight_decay=-0.1), "optim.muon_weight_decay"),
        (lambda: AugmentConfig(flip="alternating", horizontal_flip=0.0), "augment.flip"),
        (lambda: EvaluateConfig(every_epochs=0), "evaluate.every_epochs"),
        (lambda: RunConfig(seed=-1), "seed"),
        (lambda: RunConfig(optim=OptimConfig(warmup_epochs=3.0), train=TrainConfig(epochs=2)), "optim.warmup_epochs"),
        (lambda: RunConfig(model=ModelConfig(num_classes=11)), "model.num_classes"),
        (lambda: RunConfig().resolve(1).resolve(10), "model.num_classes"),
    ],
)
def test_a_value_out_of_range_is_bad_usage_in_one_line(make: Callable[[], object], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value).startswith(f"{field} is ")
    assert len(str(caught.value).splitlines()) == 1


def test_resolve_fills_in_the_classes() -> None:
    assert RunConfig().resolve(10).model.num_classes == 10
    assert RunConfig().resolve(10).resolve(10) == RunConfig().resolve(10)


def other_values(hint: Any, value: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return [word for word in get_args(hint) if word != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2]
    if isinstance(value, float):
        return [value / 2, value + 0.25] if value else [0.25]
    if isinstance(value, tuple):
        return [tuple(item * 0.75 for item in value)]
    if value is None:
        kinds = get_args(hint)
        return [(0.8, 0.9)] if tuple in map(get_origin, kinds) else [{str: "ab", float: 0.5, int: 8}[kinds[0]]]
    return ["cifar100"]


def changed(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield every field's dotted name and the config with that field alone changed."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            for name, part in changed(value):
                yield f"{field.name}.{name}", lambda part=part, name=field.name: {name: part()}
            continue
        others = [Path("/elsewhere")] if field.name in ("root", "cache") else other_values(hints[field.name], value)

        def variants(name: str = field.name, others: list[Any] = others, base: Any = config) -> Any:
            for other in others:
                try:
                    return dataclasses.replace(base, **{name: other})
                except UsageError:
                    continue
            raise AssertionError(f"no other value was found for {name}")

        yield field.name, variants


def replaced(config: RunConfig, change: Any) -> RunConfig:
    made = change()
    return dataclasses.replace(config, **made) if isinstance(made, dict) else made


NOT_IDENTITY = {
    "recipe",
    "data.root",
    "data.cache",
    "model.num_classes",
    "evaluate.batch_size",
    "checkpoint.every_seconds",
    "checkpoint.best",
    "device.device",
    "device.attention",
    "device.convolution",
    "device.compile",
    "device.compile_mode",
    "device.compile_augment",
    "device.prefetch",
    "device.cuda_graphs",
    "device.num_threads",
}
BASE = RunConfig(recipe="cifar100", data=DataConfig(dataset="cifar10"), optim=OptimConfig(warmup_epochs=10.0))


@pytest.mark.parametrize(
    ("name", "change"), list(changed(BASE)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_field_that_decides_the_result_changes_the_digest(name: str, change: Any) -> None:
    base = BASE
    if name == "recipe":
        other = dataclasses.replace(BASE, recipe="another")
    elif name == "model.num_classes":
        other = BASE.resolve(10)
    elif name == "model.num_heads":
        other = dataclasses.replace(BASE, model=dataclasses.replace(BASE.model, num_heads=6))
    elif name == "model.tokenizer_depth":  # only a convolutional tokenizer has more than one
        base = dataclasses.replace(BASE, model=dataclasses.replace(BASE.model, tokenizer="conv"))
        other = dataclasses.replace(base, model=dataclasses.replace(base.model, tokenizer_depth=2))
    elif name.startswith("optim.muon_"):  # only Muon has them
        base = dataclasses.replace(BASE, optim=OptimConfig(optimizer="muon"))
        own = {name.removeprefix("optim."): "apart" if name == "optim.muon_qkv" else 0.5}
        other = dataclasses.replace(base, optim=OptimConfig(optimizer="muon", **own))
    else:
        other = replaced(base, change)
    assert other != base
    assert (other.digest() == base.digest()) == (name in NOT_IDENTITY)


def test_equal_configs_have_equal_digests_however_the_numbers_are_written() -> None:
    whole, point = RunConfig(optim=OptimConfig(warmup_epochs=2.0)), RunConfig(optim=OptimConfig(warmup_epochs=2.0))
    object.__setattr__(whole.optim, "warmup_epochs", 2)  # as a user's Python may, which nothing checks at run time
    assert whole == point
    assert whole.digest() == point.digest() == RunConfig.from_json(whole.to_json()).digest()


def test_golden_recipes(golden: Callable[[str, Any], Any]) -> None:
    now = {name: {"digest": recipe().digest(), "config": recipe().to_json()} for name, recipe in RECIPES.items()}
    assert golden("recipes.json", now) == now, "read CONTRIBUTING.md, a new field; then pytest --update-golden"


def test_recipes_are_named_after_themselves_and_described_in_a_line() -> None:
    for name, recipe in RECIPES.items():
        assert recipe().recipe == name
        assert recipe.__doc__
        assert len(recipe.__doc__.splitlines()) == 1


def test_a_runs_file_gives_its_experiment_and_not_its_machine(tmp_path: Path) -> None:
    file, machine = tmp_path / "config.json", DeviceConfig(device="cuda", precision="bfloat16", num_threads=3)
    too_long = tmp_path / ("x" * 300)  # one that may not be looked into, as a colleague's home, is an OSError as well
    for root, kept in ((tmp_path, tmp_path), (tmp_path / "gone", None), (too_long, None)):
        data = DataConfig(dataset="cifar10", root=root, cache=tmp_path, val_fraction=0.2)
        run = dataclasses.replace(RECIPES["best"](), seed=4, data=data, device=machine).resolve(10)
        file.write_text(json.dumps(run.to_json()))
        again = read_recipe(file)
        assert again.digest() == run.digest()
        assert again.data == dataclasses.replace(data, root=kept, cache=None)
        assert again.device == DeviceConfig(precision="bfloat16")
        assert again.model.num_classes is None  # so that it may go on other data
    folder = dataclasses.replace(run, data=DataConfig(dataset="folder", root=tmp_path / "gone"))
    file.write_text(json.dumps(folder.to_json()))
    assert read_recipe(file).data == folder.data


def test_every_published_run_can_be_started_again() -> None:
    for path in RESULTS.glob("runs/*/seed0.json"):
        assert read_recipe(path).digest() == json.loads(path.read_text())["config_digest"], path


def test_a_file_that_is_no_runs_is_refused(tmp_path: Path) -> None:
    record = json.loads((RESULTS / "weights" / "best" / "record.json").read_text())
    file = tmp_path / "record.json"
    for change, words in (
        ({"config": {**record["config"], "seed": 1}}, "record.json: config_digest is not that of its config"),
        ({"config": None}, "record.json: config has schema None"),
        (
            {"config": {**record["config"], "sede": 1}},
            "record.json: config.sede is not known to this version: did you mean seed?",
        ),
    ):
        file.write_text(json.dumps({**record, **change}))
        with pytest.raises(SmallvitError) as refused:
            read_recipe(file)
        assert words in str(refused.value)
    for text in ("[]", "{}", "no JSON"):
        file.write_text(text)
        with pytest.raises(SmallvitError, match=r"record\.json"):
            read_recipe(file)


def test_a_fork_is_run_again_with_its_weights_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(dataclasses.replace(RECIPES["small"](), fork="0" * 64).to_json()))
    assert main(["train", str(file)]) == 2
    assert "is of a fork: name the run folder with the weights that it starts from, --fork" in capsys.readouterr().err
    assert main(["train", str(file), "--fork", str(tmp_path / "none")]) == 2
    assert "none': it must be a run folder" in capsys.readouterr().err


@SLOW
@given(epochs=st.integers(1, 400), passes=st.integers(1, 5), warmup=st.floats(0, 1), scale=st.floats(0.001, 1))
def test_a_scale_shortens_everything_alike(epochs: int, passes: int, warmup: float, scale: float) -> None:
    optim, train = OptimConfig(warmup_epochs=warmup * epochs), TrainConfig(epochs=epochs, passes_per_epoch=passes)
    if round(scale * epochs * passes) < 1:
        with pytest.raises(UsageError, match=rf"scale is .*of {epochs * passes} passes at least one must be left"):
            RunConfig(optim=optim, train=train, scale=scale)
        return
    length = RunConfig(optim=optim, train=train, scale=scale).length
    whole = scale * epochs >= 1
    rounding = passes / 2 if whole else 0.5
    assert abs(length.epochs * length.passes_per_epoch - scale * epochs * passes) <= rounding + 1e-9
    assert length.warmup_epochs / length.epochs == pytest.approx(warmup)
    assert length.every_epochs >= 1
    assert length.passes_per_epoch == passes or (length.epochs == 1 and not whole)


def test_a_whole_run_has_the_length_that_it_says() -> None:
    for recipe in RECIPES.values():
        config = recipe()
        length = config.length
        assert (length.epochs, length.passes_per_epoch) == (config.train.epochs, config.train.passes_per_epoch)
        assert length.warmup_epochs == config.optim.warmup_epochs
        assert length.every_epochs == config.evaluate.every_epochs


def test_a_scaled_run_is_another_run_and_a_whole_one_keeps_its_digest() -> None:
    baseline = RECIPES["baseline"]()
    scaled = dataclasses.replace(baseline, scale=0.02)
    assert scaled.digest() != baseline.digest()
    assert dataclasses.replace(scaled, scale=1.0).digest() == baseline.digest()
    assert "scale" in baseline.to_json()


@pytest.mark.parametrize("scale", [0.0, -0.5, 1000.5, float("nan"), True, "0.1"])
def test_a_scale_out_of_range_is_refused(scale: Any) -> None:
    value = RunConfig().to_json()
    assert "scale is" in refusal({**value, "scale": scale})
