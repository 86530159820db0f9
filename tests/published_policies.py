"""AutoAugment's CIFAR-10 policy as it was published, with Pillow on one image; it shares no number with the package.

Written from the definition: 25 sub-policies of two operations, each with a probability and one of ten magnitudes, which
are evenly spaced over the operation's range.
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GRAY = (128, 128, 128)
# probability, operation, magnitude; twice
SUB_POLICIES = """
    0.1 invert 7        0.2 contrast 6
    0.7 rotate 2        0.3 translateX 9
    0.8 sharpness 1     0.9 sharpness 3
    0.5 shearY 8        0.7 translateY 9
    0.5 autocontrast 8  0.9 equalize 2
    0.2 shearY 7        0.3 posterize 7
    0.4 color 3         0.6 brightness 7
    0.3 sharpness 9     0.7 brightness 9
    0.6 equalize 5      0.5 equalize 1
    0.6 contrast 7      0.6 sharpness 5
    0.7 color 7         0.5 translateX 8
    0.3 equalize 7      0.4 autocontrast 8
    0.4 translateY 3    0.2 sharpness 6
    0.9 brightness 6    0.2 color 8
    0.5 solarize 2      0.0 invert 3
    0.2 equalize 0      0.6 autocontrast 0
    0.2 equalize 8      0.6 equalize 4
    0.9 color 9         0.6 equalize 6
    0.8 autocontrast 4  0.2 solarize 8
    0.1 brightness 3    0.7 color 0
    0.4 solarize 5      0.9 autocontrast 3
    0.9 translateY 9    0.7 translateY 9
    0.9 autocontrast 2  0.8 solarize 3
    0.8 equalize 8      0.1 invert 3
    0.7 translateY 9    0.9 autocontrast 1
"""
_RANGES = {
    "shearY": np.linspace(0, 0.3, 10),
    "translateX": np.linspace(0, 150 / 331, 10),
    "translateY": np.linspace(0, 150 / 331, 10),
    "rotate": np.linspace(0, 30, 10),
    "color": np.linspace(0, 0.9, 10),
    "posterize": np.round(np.linspace(8, 4, 10)).astype(int),
    "solarize": np.linspace(256, 0, 10),
    "contrast": np.linspace(0, 0.9, 10),
    "sharpness": np.linspace(0, 0.9, 10),
    "brightness": np.linspace(0, 0.9, 10),
}
_ENHANCED = {name: getattr(ImageEnhance, name.title()) for name in ("color", "contrast", "sharpness", "brightness")}


def sub_policies():
    """Return 25 pairs of (operation, probability, magnitude)."""
    rows = [line.split() for line in SUB_POLICIES.strip().splitlines()]
    return [[(row[i + 1], float(row[i]), int(row[i + 2])) for i in (0, 3)] for row in rows]


def autoaugmented(image, name, magnitude, sign):
    """Return a Pillow image after an operation; `sign` (-1 or 1) is what the published code draws, if it does."""
    size, (width, height) = _RANGES.get(name, np.zeros(10))[magnitude], image.size
    if name in _ENHANCED:
        return _ENHANCED[name](image).enhance(1 + size * sign)

    def moved(numbers, kernel):
        return image.transform(image.size, Image.Transform.AFFINE, numbers, kernel, fillcolor=GRAY)

    def rotated():  # always counterclockwise
        turned = image.convert("RGBA").rotate(size)
        return Image.composite(turned, Image.new("RGBA", turned.size, (128,) * 4), turned).convert(image.mode)

    return {
        "invert": lambda: ImageOps.invert(image),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "posterize": lambda: ImageOps.posterize(image, int(size)),
        "solarize": lambda: ImageOps.solarize(image, size),
        "shearY": lambda: moved((1, 0, 0, size * sign, 1, 0), Image.Resampling.BICUBIC),
        "translateX": lambda: moved((1, 0, size * width * sign, 0, 1, 0), Image.Resampling.NEAREST),
        "translateY": lambda: moved((1, 0, 0, 0, 1, size * height * sign), Image.Resampling.NEAREST),
        "rotate": rotated,
    }[name]()
