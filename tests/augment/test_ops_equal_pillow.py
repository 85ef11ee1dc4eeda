"""Every op, magnitude and sign against Pillow on real and random images."""

import numpy as np
import pytest
import torch

from smallvit.augment.ops import OPS, SPACES, magnitudes, op_id
from smallvit.augment.policy import apply_policy, encode_ops

EXACT = [name for name in OPS if name != "GaussianBlur"]


def ours(images, name, values, space="deepvoltaire"):
    op = np.full((len(images), 1), op_id(name))
    params = encode_ops(op, np.asarray(values, dtype=np.float64)[:, None], images.shape[2:], SPACES[space])
    return apply_policy(images, params)


@pytest.fixture(scope="session")
def pictures(cifar_images, noise_images, flat_images):
    return torch.cat([cifar_images, noise_images(100), flat_images])


@pytest.mark.parametrize("space", list(SPACES))
@pytest.mark.parametrize("name", EXACT)
def test_every_magnitude_and_sign_equals_pillow(name, space, pictures, pillow):
    table = magnitudes(space, 10, (32, 32))[:, op_id(name)]
    # Ops that differ between spaces only by value need Pillow's answer once for each distinct value.
    for value in np.unique(table):
        values = np.full(len(pictures), value)
        setting = SPACES[space]
        expected = pillow(
            pictures, [name] * len(pictures), values, bicubic_shear=setting.bicubic_shear, fill=setting.fill
        )
        assert torch.equal(ours(pictures, name, values, space), expected), (name, space, value)
