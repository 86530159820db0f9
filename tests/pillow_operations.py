"""Every operation of an augmentation with Pillow on one image, from the same whole numbers."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from saddle_jax.data import operations as ops
from saddle_jax.data import photometry
from saddle_jax.data.geometry import BICUBIC, POINT

KERNELS = {False: Image.Resampling.BILINEAR, True: Image.Resampling.BICUBIC}


def enhanced(change, image, factor):
    return change(image).enhance(factor / (1 << photometry.FACTOR_BITS))


def solarize_add(image, added):
    return image.point([min(255, i + added) if i < 128 else i for i in range(256)] * 3)


def turned_hue(image, shift):
    hue, saturation, value = image.convert("HSV").split()
    moved = (np.asarray(hue).astype(int) + shift).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(moved), saturation, value)).convert("RGB")


def coefficients(numbers):
    """Return Pillow's six coefficients, of which ours have the half pixel added."""
    a, b, c, d, e, f = (n / (1 << POINT) for n in numbers)
    return a, b, c - a / 2 - b / 2, d, e, f - d / 2 - e / 2


def moved(image, kernel, numbers, fill):
    return image.transform(image.size, Image.Transform.AFFINE, coefficients(numbers), kernel, fillcolor=fill)


def slid(image, numbers, fill, *, down):
    kernel, slope, offset = numbers
    one, half = 1 << POINT, 1 << (POINT - 1)
    full = (one, 0, half, slope, one, offset) if down else (one, slope, offset, 0, one, half)
    return moved(image, KERNELS[kernel == BICUBIC], full, fill)


def change(image, operation, numbers, fill=(128, 128, 128)):
    """Return a Pillow image after an operation of `saddle_jax.data.operations`."""
    first = int(numbers[0]) if len(numbers) else 0
    return {
        ops.POSTERIZE: lambda: ImageOps.posterize(image, 9 - first.bit_length()),
        ops.SOLARIZE: lambda: ImageOps.solarize(image, first),
        ops.SOLARIZE_ADD: lambda: solarize_add(image, first),
        ops.BRIGHTNESS: lambda: enhanced(ImageEnhance.Brightness, image, first),
        ops.CONTRAST: lambda: enhanced(ImageEnhance.Contrast, image, first),
        ops.COLOUR: lambda: enhanced(ImageEnhance.Color, image, first),
        ops.SHARPNESS: lambda: enhanced(ImageEnhance.Sharpness, image, first),
        ops.AUTOCONTRAST: lambda: ImageOps.autocontrast(image),
        ops.EQUALIZE: lambda: ImageOps.equalize(image),
        ops.HUE: lambda: turned_hue(image, first),
        ops.GREY: lambda: image.convert("L").convert("RGB"),
        ops.MOVE_NEAREST: lambda: moved(image, Image.Resampling.NEAREST, numbers, fill),
        ops.MOVE: lambda: moved(image, KERNELS[first == BICUBIC], numbers[1:], fill),
        ops.SLIDE_X: lambda: slid(image, numbers, fill, down=False),
        ops.SLIDE_Y: lambda: slid(image, numbers, fill, down=True),
    }[operation]()
