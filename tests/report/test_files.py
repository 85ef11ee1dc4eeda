"""Runs on a folder of pictures: which file each answer is of, on pages and between runs of other image sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from page_reader import Page
from smallvit.config import RunConfig
from smallvit.data.config import DataConfig
from smallvit.device.config import DeviceConfig
from smallvit.errors import SmallvitError
from smallvit.model.config import ModelConfig
from smallvit.report.compare import compare
from smallvit.report.page import write_page
from smallvit.run import run
from smallvit.train.config import OptimConfig, TrainConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `small` and `large` on the same random pictures, whose size in pixels is said by their names."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    for number in range(80):
        path = folder / "pictures" / ["cat", "dog"][number % 2] / f"tag {number}" / f"{20 + number} é.png"
        path.parent.mkdir(parents=True)
        pixels = generator.integers(0, 256, (20 + number, 20 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    data = DataConfig(dataset="folder", root=folder / "pictures", cache=folder / "cache")
    optim, train = OptimConfig(warmup_epochs=0.0), TrainConfig(epochs=1, passes_per_epoch=1, batch_size=8)
    device = DeviceConfig(device="cpu", precision="float32", attention="bmm", num_threads=1)
    for name, size in (("small", 8), ("large", 16)):
        model = ModelConfig(image_size=size, patch_size=4, embed_dim=16, depth=1, num_heads=2)
        config = RunConfig(recipe="toy", data=data, model=model, optim=optim, train=train, device=device)
        run(config, folder / name)
    return folder


def test_every_mistake_names_its_file(folder: Path) -> None:
    kept = load_file(folder / "large" / "test.safetensors")
    page = Page(write_page(folder / "large"))
    assert len(kept["mistakes"]) > 1
    for row, picture in zip(kept["mistakes"].tolist(), kept["mistake_images"], strict=True):
        name = bytes(kept["files"][row]).rstrip(b"\0").decode()
        assert name in page.text
        path = folder / "pictures" / name
        assert path.parts[-3] == ["cat", "dog"][int(kept["labels"][row])]
        resized = Image.open(path).resize((16, 16), Image.Resampling.BICUBIC)
        assert np.array_equal(np.asarray(resized), picture.permute(1, 2, 0).numpy())
    assert "row " not in page.text.split("Surest wrong answers")[1].split("Accuracy of each class")[0]


def test_runs_of_other_image_sizes_are_paired_by_their_files(folder: Path) -> None:
    found = compare(folder / "small", folder / "large")
    assert found.pairs is not None
    kept = {name: load_file(folder / name / "test.safetensors") for name in ("small", "large")}
    assert torch.equal(kept["small"]["files"], kept["large"]["files"])
    right = {name: tensors["logits"].argmax(-1) == tensors["labels"] for name, tensors in kept.items()}
    assert found.pairs.mcnemar.only_b == int((~right["small"] & right["large"]).sum())
    for changed in (*found.pairs.gained, *found.pairs.lost):
        assert changed.place.startswith(f"{changed.true}/tag ")


@pytest.mark.parametrize("damage", ["renamed", "of an earlier version", "cut"])
def test_files_that_are_not_the_same_pair_nothing(folder: Path, tmp_path: Path, damage: str) -> None:
    (tmp_path / "b").mkdir()
    for path in (folder / "large").iterdir():
        if path.is_file():
            (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    kept = load_file(folder / "large" / "test.safetensors")
    files = kept.pop("files")
    if damage == "renamed":
        kept["files"] = files.flip(0)
    if damage == "cut":
        save_file({**kept, "files": files[1:]}, tmp_path / "b" / "test.safetensors")
        with pytest.raises(SmallvitError, match=r"names 15 files of 16 images: make the run again"):
            compare(folder / "small", tmp_path / "b")
        return
    save_file(kept, tmp_path / "b" / "test.safetensors")
    assert "8 and 16 pixels high" in compare(folder / "small", tmp_path / "b").unpaired
    if damage == "of an earlier version":
        assert f"row {kept['mistakes'][0]}" in Page(write_page(tmp_path / "b")).text
