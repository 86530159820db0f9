"""A network as ONNX, by jax2onnx, and checked with onnxruntime. Both are optional."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator

import jax
import numpy as np

from saddle_jax.errors import ConfigError
from saddle_jax.host import devices
from saddle_jax.inference.classifier import Classifier
from saddle_jax.inference.function import OUTPUTS, function_of, is_free, pixels_of
from saddle_jax.models import depthwise

INPUT = "images"
_OPSETS = (18, 23)  # we use the first one that can express the network; older runtimes lack 23
_TOLERANCE = 1e-4  # times the largest output, if that is more than 1


def require_installed() -> None:
    """Check that networks can be converted.

    Raises:
      ConfigError: jax2onnx is missing.
    """
    if importlib.util.find_spec("jax2onnx") is None:
        raise ConfigError('model.onnx: jax2onnx is not installed. Fix: pip install "saddle_jax[onnx]"')


def serialize(classifier: Classifier) -> bytes:
    """Return the network, with its preprocessing and its weights.

    It takes any number of images, or one if the user's own code asks for the number, as len(images) does.

    Raises:
      ConfigError: jax2onnx is missing, it can't convert the network, or the result computes something else.
    """
    require_installed()
    reason = ""
    images = np.random.default_rng(0).integers(0, 256, (2, *classifier.image_shape), np.uint8)
    with devices.exact_arithmetic("float32"):
        expected = jax.device_get(jax.jit(function_of(classifier))(images))
        for opset in _OPSETS:
            try:
                with _quiet(), depthwise.only_xla():
                    model = _convert(classifier, opset)
                    _check(model, images, expected)
                return model
            except Exception as error:  # both libraries raise almost anything
                reason = str(error).partition("\n")[0] or type(error).__name__
    raise ConfigError(f"model.onnx: jax2onnx can't convert this network ({reason})")


def _convert(classifier: Classifier, opset: int) -> bytes:
    import jax2onnx  # pyright: ignore[reportMissingImports]
    import onnx  # pyright: ignore[reportMissingImports]

    name = classifier.workdir.resolve().name
    ends = {"input_names": [INPUT], "output_names": list(OUTPUTS)}
    pixels = pixels_of(classifier, None if is_free(classifier) else 1)
    model = jax2onnx.to_onnx(function_of(classifier), [pixels], model_name=name, opset=opset, **ends)
    onnx.checker.check_model(model, full_check=True)
    onnx.helper.set_model_props(model, {"class_names": json.dumps(classifier.stats.names)})
    return model.SerializeToString()


def _check(model: bytes, images: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    """Compare what onnxruntime computes for some numbers of images, and raise ValueError if it differs."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    is_free = not isinstance(session.get_inputs()[0].shape[0], int)
    for number in (1, len(images)) if is_free else (1,):
        outputs = session.run(list(OUTPUTS), {INPUT: images[:number]})
        for name, found in zip(OUTPUTS, outputs, strict=True):
            difference = np.abs(found - expected[name][:number]).max()
            if not difference <= _TOLERANCE * max(1, np.abs(expected[name]).max()):  # NaN included
                raise ValueError(f"onnxruntime's {name} differ by {difference:.2g}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what jax2onnx prints, logs, and warns about; none of it is for users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
