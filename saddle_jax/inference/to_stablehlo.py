"""A network as StableHLO, by jax.export: one file for CPUs, GPUs, and TPUs, which needs nothing but jax."""

from __future__ import annotations

import textwrap

import jax
from jax import export
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.host import devices
from saddle_jax.inference.classifier import Classifier
from saddle_jax.inference.function import function_of, is_free, pixels_of

PLATFORMS = ("cpu", "cuda", "tpu")


def serialize(classifier: Classifier) -> bytes:
    """Return the network for any number of images, with its preprocessing and its weights.

    Raises:
      ConfigError: it uses code that jax.export does not keep, such as a custom call.
    """
    function = function_of(classifier)

    def by_image(images_NHWK: jax.Array) -> dict[str, jax.Array]:
        return jax.vmap(lambda image: jax.tree.map(lambda output: output[0], function(image[None])))(images_NHWK)

    try:
        with devices.exact_arithmetic("float32"):
            traceable = jax.jit(function if is_free(classifier) else by_image)
            return bytes(export.export(traceable, platforms=PLATFORMS)(pixels_of(classifier)).serialize())
    except Exception as error:  # whatever a user's own network raises
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(f"model.stablehlo: jax.export can't export this network ({reason})") from error


def script(classifier: Classifier) -> str:
    """Return a Python script that classifies image files with the exported network."""
    lines = preparation(classifier.config.data, classifier.image_shape, encoded=classifier.is_encoded)
    how = "as in evaluation, up to one level of 255" if classifier.is_encoded else "as in evaluation"
    return _SCRIPT.format(how=how, prepare=textwrap.indent("\n".join(lines), " " * 8))


def preparation(data: ConfigDict, image_shape: tuple[int, int, int], *, encoded: bool) -> list[str]:
    """Return the script's lines from `path` to `pixels`, (1, H, W, K); see `data.pixels` and `data.feeds.decoding`."""
    height, width, channels = image_shape
    image = "ImageOps.exif_transpose(Image.open(path))" if data.exif_orientation else "Image.open(path)"
    lines = [f'image = {image}.convert("RGB")']
    if encoded:
        lines += [
            f"width, height = ({data.eval_resize} * side // min(image.size) for side in image.size)",
            f"left, top = round((width - {width}) / 2), round((height - {height}) / 2)",
            "image = image.resize((width, height), Image.Resampling.BILINEAR)",
            f"image = image.crop((left, top, left + {width}, top + {height}))",
        ]
    else:
        whole = 'image.convert("L")' if channels == 1 else "image"
        lines.append(f"image = ImageOps.fit({whole}, ({width}, {height}), Image.Resampling.BILINEAR)")
    return [*lines, f"pixels = np.asarray(image).reshape(1, {height}, {width}, {channels})"]


_SCRIPT = '''"""Classify image files: python predict.py photo.jpg more.png

It needs jax, flatbuffers, numpy, and Pillow, but not saddle_jax. It prepares images {how}.
"""

import json
import pathlib
import sys

import jax.export
import numpy as np
from PIL import Image, ImageOps

folder = pathlib.Path(__file__).parent
names = json.loads((folder / "model.json").read_text())["class_names"]
model = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
unread = 0
if not sys.argv[1:] or sys.argv[1].startswith("-"):
    sys.exit(__doc__)
sys.stdout.reconfigure(errors="backslashreplace")  # for names of files that are not UTF-8
for path in sys.argv[1:]:
    try:
{prepare}
    except Exception as error:  # Pillow raises almost anything for a bad file
        print(f"{{path}}: not read: {{error}}")
        unread += 1
        continue
    probabilities = np.asarray(model.call(pixels)["probabilities"])[0]
    best = probabilities.argmax()
    print(f"{{path}}: {{names[best]}} {{probabilities[best]:.3f}}")
sys.exit(3 if unread else 0)
'''
