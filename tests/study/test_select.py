"""What a user chooses of a study, by words."""

from dataclasses import replace

import pytest

from smallvit.errors import UsageError
from smallvit.study.rows import Study
from smallvit.study.select import choose_rows, parse_budget, parse_seeds
from smallvit.study.studies import STUDIES
from tiny_study import study


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("25m", 1500), ("25min", 1500), ("1.5h", 5400), (" 2 h ", 7200)]
)
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "m", "5 minutes", "1e3", "nan", "inf", "٣m", "1h30m"])
def test_anything_else_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError, match=r"--budget is .*: it must be a time above 0"):
        parse_budget(text)


def test_seeds_are_a_number_or_a_list() -> None:
    assert parse_seeds("3") == (0, 1, 2)
    assert parse_seeds("0,1,2") == (0, 1, 2)
    assert parse_seeds("7, 5") == (7, 5)
    assert parse_seeds("5,") == (5,)


def test_a_seed_that_is_no_count_is_asked_about() -> None:
    with pytest.raises(UsageError, match=r"'20240101': as how many, more than 1000; for that seed: 20240101,$"):
        parse_seeds("20240101")
    assert parse_seeds("20240101,") == (20240101,)


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "1,,2", "1,1", "0,-2", "1.5", ","])
def test_anything_else_is_no_seeds(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds is "):
        parse_seeds(text)


def labels(study: Study) -> list[str]:
    return [row.label for row in study.rows]


def test_rows_are_chosen_by_label_or_folder_in_the_studys_order() -> None:
    assert labels(choose_rows(study(), "erase")) == ["erase row"]
    assert labels(choose_rows(study(), "Erase Row, plain")) == ["plain row", "erase row"]
    cls = STUDIES["cls-tokens-small"]()
    assert "width 96, 2 CLS tokens" in labels(cls)
    assert labels(choose_rows(cls, "width 96, 2 CLS tokens,width 192, 1 CLS token")) == [
        "width 96, 2 CLS tokens",
        "width 192, 1 CLS token",
    ]


def test_every_row_of_every_study_can_be_named() -> None:
    for found in (make() for make in STUDIES.values()):
        for row in found.rows:
            assert labels(choose_rows(found, row.label)) == [row.label]
            assert row.label in labels(choose_rows(found, row.folder))
        assert choose_rows(found, ", ".join(labels(found))) == found


def test_an_unknown_row_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"tiny has no row 'plane row'; did you mean plain row\? allowed are plain row; e"
    ):
        choose_rows(replace(study()), "erase, plane row")
