"""The random resized crop: its pixels against Pillow's, its draws against torchvision's."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp

from smallvit.augment.config import AugmentConfig
from smallvit.augment.resized_crop import apply_resized_crop, sample_resized_crop

WIDE = AugmentConfig(resized_crop_area=(0.01, 1.0), resized_crop_aspect=(0.3, 3.0))


def boxes(config: AugmentConfig, count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return sample_resized_crop(config, np.random.default_rng(seed), count, size).box.numpy()


@pytest.mark.parametrize("size", [(32, 32), (17, 40), (28, 28), (37, 33), (64, 9), (1, 1), (1, 5)])
def test_its_pixels_are_pillows(size, noise_images):
    height, width = size
    images = noise_images(200, height, width)
    params = sample_resized_crop(WIDE, np.random.default_rng(0), 200, size)
    for image, (top, left, bottom, right), ours in zip(
        images.permute(0, 2, 3, 1).numpy(), params.box.tolist(), apply_resized_crop(images, params), strict=True
    ):
        part = Image.fromarray(image).crop((left, top, right, bottom))
        wanted = np.asarray(part.resize((width, height), Image.Resampling.BILINEAR))
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), wanted)


def test_a_whole_image_stays_as_it_is(noise_images):
    images = noise_images(4)
    params = sample_resized_crop(AugmentConfig(resized_crop_aspect=(1.0, 1.0)), np.random.default_rng(0), 4, (32, 32))
    assert torch.equal(apply_resized_crop(images, params), images)


@pytest.mark.parametrize(
    ("size", "area", "aspect"),
    [((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)), ((48, 32), (0.5, 1.0), (0.5, 1.0)), ((32, 64), (0.9, 1.0), (0.7, 1.5))],
)
def test_its_draws_are_torchvisions(size, area, aspect, torchvision):
    """Of the second, many, and of the third most do not fit at first."""
    config = AugmentConfig(resized_crop_area=area, resized_crop_aspect=aspect)
    image = torch.zeros(3, *size)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        draw = torchvision.transforms.RandomResizedCrop.get_params
        theirs = np.array([draw(image, list(area), list(aspect)) for _ in range(4000)])
    ours = boxes(config, 4000, size)
    ours[:, 2:] -= ours[:, :2]
    measures = {
        "row": lambda top, left, rows, columns: top,
        "column": lambda top, left, rows, columns: left,
        "area": lambda top, left, rows, columns: rows * columns,
        "aspect": lambda top, left, rows, columns: columns / rows,
    }
    for name, measure in measures.items():
        assert ks_2samp(measure(*ours.T), measure(*theirs.T)).pvalue > 1e-3, name


@pytest.mark.parametrize(
    ("size", "aspect", "box"),
    [
        ((10, 40), (1 / 3, 2.0), (0, 10, 10, 30)),
        ((40, 10), (1 / 3, 2.0), (5, 0, 35, 10)),
        ((8, 8), (0.5, 0.6), (0, 1, 8, 6)),
    ],
)
def test_where_none_fits_it_is_the_largest_allowed_one_in_the_middle(size, aspect, box, torchvision):
    config = AugmentConfig(resized_crop_area=(1.0, 1.0), resized_crop_aspect=aspect)
    assert {*map(tuple, boxes(config, 50, size).tolist())} == {box}
    top, left, bottom, right = torchvision.transforms.RandomResizedCrop.get_params(
        torch.zeros(3, *size), scale=[1.0, 1.0], ratio=[*aspect]
    ) @ np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert (top, left, bottom, right) == box


def test_area_shape_row_and_column_are_drawn_apart():
    config = AugmentConfig(resized_crop_area=(0.1, 0.3), resized_crop_aspect=(0.5, 2.0))  # which all fit
    top, left, bottom, right = boxes(config, 4000, (64, 64)).T
    rows, columns = bottom - top, right - left
    drawn = rows * columns, np.log(columns / rows), top / (65 - rows), left / (65 - columns)
    assert abs(np.corrcoef(drawn) - np.eye(4)).max() < 5 / 4000**0.5


def test_draws_do_not_depend_on_the_batch_size():
    assert np.array_equal(boxes(WIDE, 50, (32, 32))[:9], boxes(WIDE, 9, (32, 32)))
