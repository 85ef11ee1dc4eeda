"""Pillow itself as the oracle, and real and random images to try it on."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images


def pillow_op(image, name, value, *, bicubic_shear, fill):
    """One op as the ports of AutoAugment write it; value as the port hands it to Pillow."""
    shear_filter = Image.Resampling.BICUBIC if bicubic_shear else Image.Resampling.NEAREST
    maps = {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateX": (1, 0, value, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, value),
    }
    if name in maps:
        resample = shear_filter if name.startswith("Shear") else Image.Resampling.NEAREST
        return image.transform(image.size, Image.Transform.AFFINE, maps[name], resample, fillcolor=fill)
    if name == "Rotate":
        turned = image.convert("RGBA").rotate(value)
        return Image.composite(turned, Image.new("RGBA", turned.size, (*fill, 255)), turned).convert("RGB")
    if name == "Cutout":
        left, top = (int(side / 2 - value // 2) for side in image.size)
        result = image.copy()
        result.paste(fill, (left, top, left + 2 * int(value // 2), top + 2 * int(value // 2)))
        return result
    if name in ("Contrast", "Color", "Brightness", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(value)
    plain = {
        "Identity": lambda: image,
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Invert": lambda: ImageOps.invert(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Solarize": lambda: ImageOps.solarize(image, value),
        "Posterize": lambda: ImageOps.posterize(image, int(value)),
        "Grayscale": lambda: image.convert("L").convert("RGB"),
        "GaussianBlur": lambda: image.filter(ImageFilter.GaussianBlur(value)),
    }
    return plain[name]()


@pytest.fixture(scope="session")
def pillow():
    """Run an op on a stack of images [B, 3, H, W], each image with its own value, through Pillow."""

    def run(images, names, values, *, bicubic_shear=True, fill=(128, 128, 128)):
        results = []
        for image, name, value in zip(images.permute(0, 2, 3, 1).numpy(), names, values, strict=True):
            picture = pillow_op(Image.fromarray(image), name, float(value), bicubic_shear=bicubic_shear, fill=fill)
            results.append(np.asarray(picture))
        return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2)

    return run


def noise(batch, height=32, width=32, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (batch, 3, height, width), dtype=np.uint8))


@pytest.fixture(scope="session")
def noise_images():
    return noise


@pytest.fixture(scope="session")
def real_images():
    """500 tiles of the two photographs that come with scikit-learn."""
    photographs = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    tiles = photographs.unfold(2, 32, 32).unfold(3, 32, 32).permute(0, 2, 3, 1, 4, 5)
    return tiles.reshape(-1, 3, 32, 32)[:500].contiguous()


@pytest.fixture(scope="session")
def flat_images():
    """Images that histograms stumble over: one colour, two colours, a ramp, black, white."""
    images = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    images[0] = 77
    images[1, :, :5] = 200
    images[2] = torch.arange(1024).view(32, 32) // 4
    images[3, 0] = 255
    images[4] = 255
    images[5, :, 0, 0] = 1
    return images
