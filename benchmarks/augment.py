"""How fast is the paper's whole augmentation stack? Images a second, ours and others', side by side in one run.

    python benchmarks/augment.py [--threads 1] [--rounds 10] [--compiled] [--json FILE]

The stack is flip, padded crop, AutoAugment for CIFAR-10 (25 sub-policies), normalise, random erasing, and CutMix or
MixUp with soft targets, on 256 x 3 x 32 x 32 uint8 images. Everything is timed from the uint8 batch to the float batch
and its targets, draws included. The contestants take turns of some batches, round after round, so that a busy machine
slows them alike; the median and the best turn are printed. Kornia and torchvision take part where they can be imported.

Then a few training steps of width 96 (recipe small's model, with that stack), and which share of them it takes.
"""

import argparse
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from smallvit.augment import AugmentConfig, apply_augment, sample_augment
from smallvit.augment.ops import OPS
from smallvit.augment.pipeline import compiled_augment
from smallvit.augment.subpolicies import AUTOAUGMENT
from smallvit.bench.clock import Timing, take_turns
from smallvit.bench.peers import import_beside_torch
from smallvit.bench.record import circumstances
from smallvit.bench.workload import Workload
from smallvit.device.choose import timed
from smallvit.device.config import DeviceConfig
from smallvit.files import write_json
from smallvit.recipes import small
from smallvit.rng import generator
from smallvit.source import package_version

BATCH, CLASSES, SMOOTHING = 256, 10, 0.1
TRAINING_STEPS = 4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CONFIG = AugmentConfig(
    policy="autoaugment-cifar10", policy_variant="paper", erase_probability=0.25, cutmix_alpha=1.0, mixup_alpha=1.0
)
Batch = tuple[torch.Tensor, torch.Tensor]
Contestant = Callable[[torch.Tensor, torch.Tensor], Batch]


def soft_mix(images: torch.Tensor, labels: torch.Tensor) -> Batch:
    """CutMix or MixUp of a whole float batch, as the loops below need it."""
    targets = torch.nn.functional.one_hot(labels, CLASSES).float()
    if random.random() < 0.5:
        share, partner = random.betavariate(1, 1), torch.randperm(len(images))
        if random.random() < 0.5:
            images = images * share + images[partner] * (1 - share)
        else:
            side = int(32 * (1 - share) ** 0.5) // 2
            row, column = random.randrange(32), random.randrange(32)
            rows, columns = slice(max(row - side, 0), row + side), slice(max(column - side, 0), column + side)
            images[:, :, rows, columns] = images[partner][:, :, rows, columns]
            share = 1 - (min(row + side, 32) - rows.start) * (min(column + side, 32) - columns.start) / 1024
        targets = targets * share + targets[partner] * (1 - share)
    return images, targets * (1 - SMOOTHING) + SMOOTHING / CLASSES


def erase(image: np.ndarray) -> None:
    """The paper's random erasing of one normalised image [3, 32, 32], in place."""
    while random.random() < 0.25:
        area, aspect = random.uniform(0.02, 0.4) * 1024, random.uniform(0.3, 1 / 0.3)
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if height < 32 and width < 32:
            top, left = random.randint(0, 32 - height), random.randint(0, 32 - width)
            image[:, top : top + height, left : left + width] = np.array(MEAN, dtype=np.float32)[:, None, None]
            return


def pillow_op(image: Image.Image, name: str, index: int) -> Image.Image:
    """One op of the paper's code at a magnitude index."""
    sign, level = random.choice((-1, 1)), index / 9
    shear, shift, grey = sign * 0.3 * level, sign * 150 / 331 * level * 32, (128, 128, 128)
    affine, cubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    if name in ("Contrast", "Color", "Brightness", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(1 + sign * 0.9 * level)
    match name:
        case "ShearX":
            return image.transform((32, 32), affine, (1, shear, 0, 0, 1, 0), cubic, fillcolor=grey)
        case "ShearY":
            return image.transform((32, 32), affine, (1, 0, 0, shear, 1, 0), cubic, fillcolor=grey)
        case "TranslateX":
            return image.transform((32, 32), affine, (1, 0, shift, 0, 1, 0), fillcolor=grey)
        case "TranslateY":
            return image.transform((32, 32), affine, (1, 0, 0, 0, 1, shift), fillcolor=grey)
        case "Rotate":
            return image.rotate(30 * level, fillcolor=grey)
        case "Posterize":
            return ImageOps.posterize(image, round(8 - 4 * level))
        case "Solarize":
            return ImageOps.solarize(image, 256 * (1 - level))
        case _:
            return getattr(ImageOps, name.lower())(image)


def pillow_loop(images: torch.Tensor, labels: torch.Tensor) -> Batch:
    """The paper's way: Pillow image by image, on one core."""
    policy = AUTOAUGMENT["autoaugment-cifar10"]
    result = np.empty((len(images), 3, 32, 32), dtype=np.float32)
    for number, pixels in enumerate(images.permute(0, 2, 3, 1).numpy()):
        image = Image.fromarray(pixels)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left, top = random.randint(0, 8), random.randint(0, 8)
        image = ImageOps.expand(image, 4).crop((left, top, left + 32, top + 32))
        chosen = random.randrange(25)
        for op, probability, index in zip(
            policy.op[chosen], policy.probability[chosen], policy.magnitude[chosen], strict=True
        ):
            if random.random() < probability:
                image = pillow_op(image, OPS[op], int(index))
        result[number] = np.asarray(image).transpose(2, 0, 1)
        result[number] = (result[number] / 255 - np.float32(MEAN)[:, None, None]) / np.float32(STD)[:, None, None]
        erase(result[number])
    return soft_mix(torch.from_numpy(result), labels)


def ours(apply: Callable[..., Batch], device: torch.device) -> Contestant:
    """Our stack, draws included; a new step each call."""
    step = 0

    def run(images: torch.Tensor, labels: torch.Tensor) -> Batch:
        nonlocal step
        step += 1
        params = sample_augment(CONFIG, generator(0, "augment", step), len(images), (32, 32)).to(device)
        return apply(images, labels, params, mean=MEAN, std=STD, num_classes=CLASSES, label_smoothing=SMOOTHING)

    return run


def torchvision_loop() -> Contestant | None:
    """The stack of torchvision's v2 transforms on tensors, image by image, so that each draws for itself."""
    try:
        v2 = import_beside_torch("torchvision.transforms.v2")
    except ImportError:
        return None
    stack = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(32, padding=4),
            v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(0.25, (0.02, 0.4)),
        ]
    )
    return lambda images, labels: soft_mix(torch.stack([stack(image) for image in images]), labels)


def kornia_batch() -> Contestant | None:
    """Kornia's stack on the float batch; its AutoAugment draws one sub-policy for the whole batch."""
    try:
        import kornia.augmentation as kornia
    except ImportError:
        return None
    stack = kornia.AugmentationSequential(
        kornia.RandomHorizontalFlip(),
        kornia.RandomCrop((32, 32), padding=4),
        kornia.auto.AutoAugment("cifar10"),
        kornia.Normalize(MEAN, STD),
        kornia.RandomErasing((0.02, 0.4), (0.3, 1 / 0.3), p=0.25),
        data_keys=["input"],
    )
    return lambda images, labels: soft_mix(stack(images.float() / 255), labels)


def times_of(contestants: dict[str, tuple[Contestant, torch.device]], rounds: int, device: str) -> dict[str, Timing]:
    """Return how long a batch takes each contestant, turn by turn."""
    small_images = torch.randint(0, 256, (BATCH, 3, 8, 8), dtype=torch.uint8).float()
    images = torch.nn.functional.interpolate(small_images, size=32, mode="bilinear").to(torch.uint8)
    labels = torch.randint(0, CLASSES, (BATCH,))
    calls: dict[str, Callable[[], Batch]] = {}
    for name, (run, place) in contestants.items():
        calls[name] = partial(run, images.to(place), labels.to(place))
        calls[name]()  # compiles
    return take_turns(calls, device, rounds)


def training_step(threads: int, device: str) -> tuple[float, float]:
    """Return the median seconds of a width-96 training step, its augmentation included, and of augmentation alone."""
    work = Workload(replace(small(), augment=CONFIG, device=DeviceConfig(device=device, num_threads=threads)))
    timed(work.pipeline, device)  # compiles and warms up
    work.settle(work.pipeline)
    # A call at a time, so that augmentation finds the cache as a step leaves it.
    pairs = [(timed(work.pipeline, device), timed(work.augment, device)) for _ in range(TRAINING_STEPS)]
    step, augmenting = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    return step, augmenting


def main() -> None:
    """Print one line a contestant, then the share of a training step; write the record where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch; the Pillow loop has one core")
    parser.add_argument("--rounds", type=int, default=10, help="timed turns of each contestant")
    parser.add_argument("--compiled", action="store_true", help="also time ours under torch.compile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where ours runs")
    parser.add_argument("--json", type=Path, help="where to write the record")
    options = parser.parse_args()
    beginning = circumstances()
    torch.set_num_threads(options.threads)
    device, cpu = torch.device(options.device), torch.device("cpu")
    contestants = {"ours, eager": (ours(apply_augment, device), device)}
    if options.compiled:
        contestants["ours, compiled"] = (ours(compiled_augment(on_gpu=device.type == "cuda"), device), device)
    others = {"Pillow loop": pillow_loop, "torchvision": torchvision_loop(), "Kornia": kornia_batch()}
    contestants |= {name: (run, cpu) for name, run in others.items() if run is not None}
    taken = times_of(contestants, options.rounds, device.type)
    speeds = {
        name: {"median": round(BATCH / timing.seconds), "best": round(BATCH / min(timing.turns))}
        for name, timing in taken.items()
    }
    print(f"torch {torch.__version__}, {options.threads} thread(s), ours on {device}, {options.rounds} turns")
    for name, speed in speeds.items():
        print(f"{name:15s} {speed['median']:12,} images/s median {speed['best']:12,} best")
    # Pillow is given as many cores as we have threads, and a perfect share of work among them.
    ratio = {
        kind: round(speeds["ours, eager"][kind] / speeds["Pillow loop"][kind] / options.threads, 2)
        for kind in ("median", "best")
    }
    print(f"ours over Pillow on as many cores: {ratio['median']} by median, {ratio['best']} by best turn")
    step, augmenting = training_step(options.threads, device.type)
    share = f"{augmenting * 1e3:.1f} ms of a training step of {step * 1e3:.0f} ms"
    print(f"augmentation takes {share}: {augmenting / step:.2%}")
    if options.json is not None:
        record = {
            **beginning,
            "versions": beginning["versions"] | {name: package_version(name) for name in ("torchvision", "kornia")},
            "threads": options.threads,
            "device": device.type,
            "turns": options.rounds,
            "batches_in_turn": {name: timing.calls_in_turn for name, timing in taken.items()},
            "batch_size": BATCH,
            "images_per_second": speeds,
            "ours_over_pillow_on_as_many_cores": ratio,
            "training_step_seconds": round(step, 4),
            "augmentation_seconds": round(augmenting, 5),
        }
        write_json(options.json, record)


if __name__ == "__main__":
    main()
