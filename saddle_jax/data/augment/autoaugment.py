"""AutoAugment's policy for CIFAR-10 (Cubuk et al., 2019), then Cutout (DeVries and Taylor, 2017), as in PaCo's code."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageEnhance, ImageOps

# 25 pairs of (operation, probability, magnitude from 0 to 9).
PAIRS = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)
_LARGEST = 9  # magnitude
_FILL = (128, 128, 128)  # color of the pixels that moves bring in
_MOVE = 150 / 331  # largest translation, as a fraction of the side
_HOLE = 16  # pixels per side


def change(image: Image.Image, random: Random) -> Image.Image:
    """Return the image after a random pair of operations, with a hole centered on a random pixel."""
    for name, chance, magnitude in random.choice(PAIRS):
        if random.random() < chance:
            image = operate(image, name, magnitude / _LARGEST, random.choice((-1, 1)))
    x, y, half = random.randrange(image.width), random.randrange(image.height), _HOLE // 2
    hole = max(x - half, 0), max(y - half, 0), min(x + half, image.width), min(y + half, image.height)
    image.paste((0, 0, 0), hole)
    return image


def operate(image: Image.Image, name: str, part: float, sign: int) -> Image.Image:
    """Return a new image after an operation at `part` of its largest magnitude. `sign` is its direction, if any."""
    match name:
        case "invert":
            return ImageOps.invert(image)
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "solarize":
            return ImageOps.solarize(image, 256 * (1 - part))
        case "posterize":
            return ImageOps.posterize(image, round(8 - 4 * part))
        case "rotate":
            return image.rotate(30 * part, fillcolor=_FILL)  # always counterclockwise
        case "shear_y":
            return _moved(image, (1, 0, 0, sign * 0.3 * part, 1, 0), Image.Resampling.BICUBIC)
        case "translate_x":
            return _moved(image, (1, 0, sign * _MOVE * part * image.width, 0, 1, 0), Image.Resampling.NEAREST)
        case "translate_y":
            return _moved(image, (1, 0, 0, 0, 1, sign * _MOVE * part * image.height), Image.Resampling.NEAREST)
    return _ENHANCED[name](image).enhance(1 + sign * 0.9 * part)


_ENHANCED = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


def _moved(image: Image.Image, numbers: tuple[float, ...], kernel: Image.Resampling) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, numbers, kernel, fillcolor=_FILL)
