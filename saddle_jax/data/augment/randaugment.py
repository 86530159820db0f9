"""RandAugment (Cubuk et al., 2020) with PaCo's numbers: two operations, each on half of the images, magnitude 10."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageEnhance, ImageOps

_ACTS = 2  # operations per image, drawn with replacement
_CHANCE = 0.5  # probability that each of them acts
_SPREAD = 0.05  # standard deviation of the magnitude around 1, which is also its maximum
_SHEAR = 0.3  # largest shear
_MOVE = 0.45  # largest translation, as a fraction of the side
_ANGLE = 30  # largest rotation, in degrees
_ADDED_BELOW = 128  # solarize_add only changes levels below this
_KERNELS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)

_ENHANCED = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}
_LEVELS = ("autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add")
_MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
NAMES = (*_ENHANCED, *_LEVELS, *_MOVES)


def change(image: Image.Image, random: Random, fill: tuple[int, ...]) -> Image.Image:
    """Return the image after two random operations, each of which may or may not act.

    Args:
      fill: level of each channel in the pixels that moves bring in.
    """
    for name in random.choices(NAMES, k=_ACTS):
        if random.random() < _CHANCE:
            magnitude = min(max(random.gauss(1, _SPREAD), 0), 1)
            if name in _MOVES:
                image = move(image, name, magnitude * random.choice((-1, 1)), random.choice(_KERNELS), fill)
            else:
                image = recolor(image, name, magnitude)
    return image


def recolor(image: Image.Image, name: str, magnitude: float) -> Image.Image:
    """Return the image after an operation on its levels, with a magnitude from 0 to 1."""
    match name:
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "invert":
            return ImageOps.invert(image)
        case "posterize":
            return ImageOps.posterize(image, int(4 * magnitude))
        case "solarize":
            return ImageOps.solarize(image, int(256 * magnitude))
        case "solarize_add":
            added = int(110 * magnitude)
            table = [min(255, level + added) if level < _ADDED_BELOW else level for level in range(256)]
            return image.point(table * len(image.getbands()))
    return _ENHANCED[name](image).enhance(0.1 + 1.8 * magnitude)


def move(image: Image.Image, name: str, signed: float, kernel: Image.Resampling, fill: tuple[int, ...]) -> Image.Image:
    """Return the image after a move, with a magnitude from -1 to 1."""
    if name == "rotate":
        return image.rotate(_ANGLE * signed, kernel, fillcolor=fill)
    numbers = {
        "shear_x": (1, _SHEAR * signed, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, _SHEAR * signed, 1, 0),
        "translate_x": (1, 0, int(_MOVE * image.width) * signed, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, int(_MOVE * image.height) * signed),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, numbers, kernel, fillcolor=fill)
