"""SimCLR's augmentation (Chen et al., 2020) with PaCo's numbers for CIFAR."""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageChops, ImageEnhance, ImageFilter

AREA = (0.2, 1.0)  # fraction of the image that the resized crop covers
ASPECT = (3 / 4, 4 / 3)  # width over height of the crop
_ATTEMPTS = 10  # attempts to find a crop that fits
_ENHANCED = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "color": ImageEnhance.Color}
_RANGES = {
    **dict.fromkeys(_ENHANCED, (0.6, 1.4)),
    "hue": (-0.1, 0.1),
}  # factors; for the hue, fractions of the color circle
NAMES = tuple(_RANGES)
_JITTER_CHANCE, _GRAY_CHANCE, _BLUR_CHANCE = 0.8, 0.2, 0.5
_SIGMA = (0.1, 2.0)  # standard deviation of the blur, in pixels


def crop(image: Image.Image, random: Random, *, flip: bool) -> Image.Image:
    """Return a random part of the image, resized to the image's own size and mirrored half of the time if `flip`."""
    left, top, width, height = window(image.width, image.height, random)
    box = (left, top, left + width, top + height)
    image = image.crop(box).resize(image.size, Image.Resampling.BILINEAR)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip and random.random() < 0.5 else image


def window(width: int, height: int, random: Random) -> tuple[int, int, int, int]:
    """Return torchvision's RandomResizedCrop window for a width x height image: left, top, width, height."""
    for _ in range(_ATTEMPTS):
        area = width * height * random.uniform(*AREA)
        ratio = math.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return random.randint(0, width - wide), random.randint(0, height - high), wide, high
    wide = min(width, round(height * ASPECT[1]))
    high = min(height, round(width / ASPECT[0]))
    return (width - wide) // 2, (height - high) // 2, wide, high


def change(image: Image.Image, random: Random) -> Image.Image:
    """Return the image after color jitter, conversion to gray, and blur, each by chance."""
    if random.random() < _JITTER_CHANCE:
        for name in random.sample(NAMES, len(NAMES)):
            image = jitter(image, name, random.uniform(*_RANGES[name]))
    if random.random() < _GRAY_CHANCE:
        image = image.convert("L").convert("RGB")
    if random.random() < _BLUR_CHANCE:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(*_SIGMA)))
    return image


def jitter(image: Image.Image, name: str, number: float) -> Image.Image:
    """Return the image with one of NAMES changed: by a factor, or the hue by a fraction of the color circle."""
    return turned_hue(image, number) if name == "hue" else _ENHANCED[name](image).enhance(number)


def turned_hue(image: Image.Image, part: float) -> Image.Image:
    """Return the image with its hue turned by a fraction of the circle, in Pillow's 255 steps, as torchvision does."""
    hue, saturation, value = image.convert("HSV").split()
    turned = ImageChops.add_modulo(hue, Image.new("L", hue.size, int(255 * part) % 256))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
