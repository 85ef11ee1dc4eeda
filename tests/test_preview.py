"""The picture of a recipe's augmentation, of a folder with fewer images than it shows."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from smallvit.augment import normalise
from smallvit.cli import main
from smallvit.data.config import DataConfig
from smallvit.errors import SmallvitError, UsageError
from smallvit.preview import _NO_GLYPH, _displayable, show_augment
from smallvit.recipes import RECIPES


def test_a_folder_of_few_images_is_shown_whole(tmp_path: Path) -> None:
    for name, grey in (("a", 0), ("a", 80), ("b", 160), ("b", 240)):
        (tmp_path / "root" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (grey, 9, 9)).save(tmp_path / "root" / name / f"{grey}.png")
    data = DataConfig(dataset="folder", root=tmp_path / "root", cache=tmp_path / "cache")
    (tmp_path / "root" / "a" / "phone.heic").write_bytes(b"x")
    note, *_ = show_augment(replace(RECIPES["quickstart"](), data=data), tmp_path / "out.png", num_draws=1)
    assert note.endswith("passed over files that are not images of a class: a/phone.heic")
    (tmp_path / "root" / "b").rename(tmp_path / "root" / "\N{CJK UNIFIED IDEOGRAPH-732B}")
    show_augment(replace(RECIPES["quickstart"](), data=data), tmp_path / "out.svg", num_draws=1)
    assert "\N{CJK UNIFIED IDEOGRAPH-732B}</text>" in (tmp_path / "out.svg").read_text()
    assert show_augment(replace(RECIPES["quickstart"](), data=data), tmp_path / "out.png", num_draws=1)[-1] == _NO_GLYPH
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width < picture.height


def test_what_cannot_be_written_or_shown_is_one_line(tmp_path: Path) -> None:
    config = RECIPES["quickstart"]()
    with pytest.raises(SmallvitError, match=r"/none/a\.png: No such file or directory$"):
        show_augment(config, tmp_path / "none" / "a.png", num_images=1, num_draws=1)
    with pytest.raises(UsageError, match="num_images is 0: it must be a whole number, at least 1"):
        show_augment(config, tmp_path / "a.png", num_images=0)


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_a_date_of_nonsense_in_the_environment_stops_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "x")
    show_augment(RECIPES["quickstart"](), tmp_path / f"a.{kind}", num_images=1, num_draws=1)
    assert b"Date" not in (tmp_path / f"a.{kind}").read_bytes()
    assert os.environ["SOURCE_DATE_EPOCH"] == "x"


def test_a_preview_shows_the_pixels_that_were_normalised() -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    assert torch.equal(_displayable(normalise(images, mean, std), mean, std), images)


def test_torchs_defaults_are_the_callers_and_change_no_pixel(tmp_path: Path) -> None:
    config, pictures = RECIPES["quickstart"](), [tmp_path / "a.png", tmp_path / "b.png"]
    show_augment(config, pictures[0], num_images=2, num_draws=1)
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            show_augment(config, pictures[1], num_images=2, num_draws=1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_no_picture_is_written_among_those_that_it_is_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    words = ["show-augment", "small", "--data.dataset", "folder", "--data.root", str(tmp_path / "pets"), "--out"]
    for name in ("augment.png", "cat/1.png"):
        assert main([*words, str(tmp_path / "pets" / name)]) == 2
        assert "it lies among the images of data.root" in capsys.readouterr().err
