from pathlib import Path

import pytest

from smallvit.data.config import DATASETS, DataConfig
from smallvit.errors import UsageError


@pytest.mark.parametrize(
    ("given", "nearest"), [("cifar", "cifar10"), ("CIFAR10", "cifar10"), ("digit", "digits"), ("cifra100", "cifar100")]
)
def test_a_wrong_name_gets_the_nearest_right_one(given: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"data.dataset is '{given}': did you mean {nearest}") as caught:
        DataConfig(dataset=given)
    assert all(name in str(caught.value) for name in DATASETS)


def test_a_name_like_no_other_gets_the_allowed_ones_alone() -> None:
    with pytest.raises(UsageError) as caught:
        DataConfig(dataset="zzz")
    assert "did you mean" not in str(caught.value)
    assert "digits, cifar10, cifar100, folder" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("val_fraction", -0.1), ("val_fraction", 1.0), ("val_fraction", float("nan"))],
        *[("test_fraction", 0.0), ("test_fraction", 1.0), ("split_seed", -1)],
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"data\.{field} is {value}: it must be"):
        DataConfig(**{field: value})


def test_root_is_needed_by_a_folder_and_refused_by_digits() -> None:
    with pytest.raises(UsageError, match=r"data\.root is None: .* needs the folder"):
        DataConfig(dataset="folder")
    with pytest.raises(UsageError, match="no use"):
        DataConfig(dataset="digits", root=Path("x"))
