"""What arrays of images and labels mean. Other forms than our own are accepted where their meaning is clear.

Shapes: N images, H x W pixels, K channels, C classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from saddle_jax.errors import DataError, did_you_mean

CHANNELS = (1, 3, 4)  # gray, colors, colors with transparency
_LARGEST_LABEL = 999_999


class Read(NamedTuple):
    """An array as it was understood."""

    array: Any
    notes: tuple[str, ...] = ()  # what was not obvious


class Labels(NamedTuple):
    """The labels of some splits, numbered from 0."""

    labels: dict[str, np.ndarray]  # split -> (N,) int32
    names: tuple[str, ...]  # of the classes
    notes: tuple[str, ...]
    first: int = 0  # the number of the first class as its user counts them, 0 or 1


def images(name: str, array: np.ndarray) -> Read:
    """Return images as (N, H, W, K) uint8.

    It accepts levels from 0 to 255 in any type, levels from 0 to 1, images without an axis of channels, and images with
    channels first.

    Raises:
      DataError: the array is none of these.
    """
    expected = "expected uint8 (N, height, width[, channels]), N > 0"
    if array.ndim not in (3, 4) or 0 in array.shape or array.dtype.kind not in "uifb":
        raise DataError(f"{name}: found {array.dtype} {array.shape}, {expected}")
    notes = []
    if array.ndim == 3:
        array = array[..., None]
    elif array.shape[-1] not in CHANNELS and array.shape[1] in CHANNELS:
        notes.append(f"{name} {array.shape} are treated as channels first: axis 1 has {array.shape[1]} of them")
        array = array.transpose(0, 2, 3, 1)
    if array.dtype == np.uint8:
        return Read(np.ascontiguousarray(array), tuple(notes))
    low, high = array.min(), array.max()
    if not np.isfinite([low, high]).all():
        raise DataError(f"{name}: found values that are not finite, expected levels from 0 to 255. Fix: replace them")
    if array.dtype.kind != "f" and array.dtype != bool and low >= 0 and high <= 255:
        return Read(array.astype(np.uint8), tuple(notes))
    if low >= 0 and high <= 1:
        notes.append(f"{name} of type {array.dtype} from 0 to 1 are treated as levels from 0 to 255")
        return Read(np.rint(array.astype(np.float32) * 255).astype(np.uint8), tuple(notes))
    if low >= 0 and high <= 255 and np.array_equal(array, np.rint(array)):
        notes.append(
            f"{name} of type {array.dtype} with whole numbers up to {high:g} are treated as levels from 0 to 255"
        )
        return Read(array.astype(np.uint8), tuple(notes))
    raise DataError(
        f"{name}: found {array.dtype} from {low:g} to {high:g}, expected levels from 0 to 255. Fix: save them before "
        "they are normalized, or scale them: np.rint(255 * (x - x.min()) / (x.max() - x.min())).astype(np.uint8)"
    )


def labels(found: dict[str, np.ndarray], class_names: tuple[str, ...] | None, *, gaps: bool = False) -> Labels:
    """Return the labels of all splits, numbered from 0, and the names of the classes.

    It accepts class names, one-hot rows, columns, whole numbers in any type, and labels that count from 1.

    Args:
      found: name of an array -> labels as its user wrote them.
      class_names: names of the classes in label order, if the user gave them.
      gaps: classes may be empty, so labels without a 0 don't mean that they count from 1.

    Raises:
      DataError: labels are none of these. It reports all problems.
    """
    notes: list[str] = []
    problems: list[str] = []
    if class_names is not None and len(set(class_names)) < len(class_names):
        twice = next(name for name in class_names if class_names.count(name) > 1)
        problems.append(f"class_names: found {twice!r} twice, expected each name once")
    flat = {}
    for name, array in found.items():
        try:
            flat[name], told = _flat(name, array, class_names or ())
            notes += told
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    if any(array.dtype.kind in "US" for array in flat.values()):
        named = _by_name(flat, class_names)
        return Labels(named[0], named[1], tuple(notes))
    smallest = min(int(array.min()) for array in flat.values())
    number = max(int(array.max()) for array in flat.values()) + 1
    train = next(iter(flat.values()))
    without_gaps = len(np.unique(train)) == number - 1
    if smallest == 1 and (number - 1 == len(class_names) if class_names else without_gaps and not gaps):
        notes.append(f"labels start at 1, so 1 to {number - 1} are treated as the classes")
        names = class_names or tuple(str(label) for label in range(1, number))
        from_0 = {name: (array - 1).astype(np.int32) for name, array in flat.items()}
        return Labels(from_0, names, tuple(notes), first=1)
    names = class_names or tuple(str(label) for label in range(number))
    if number > len(names):
        raise DataError(
            f"labels go up to {number - 1}, but there are {len(names)} class_names. Fix: give one name per label"
        )
    return Labels({name: array.astype(np.int32) for name, array in flat.items()}, names, tuple(notes))


def as_text(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array as text. Bytes are treated as UTF-8.

    Raises:
      DataError: they are not UTF-8.
    """
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: found {error.object!r}, expected text in UTF-8. Fix: decode it before you save it, such as "
            f"np.char.decode({name}, 'latin-1')"
        ) from error


def _flat(name: str, array: np.ndarray, class_names: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """Return labels as (N,) whole numbers or names, and what was not obvious."""
    form, notes = f"{array.dtype} {array.shape}", []
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
        notes.append(f"{name} {form} are treated as one label per row")
    elif array.ndim == 2 and array.dtype.kind in "uifb":
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
            raise DataError(f"{name}: found {form}, expected one label per image, or one-hot rows with a single 1 each")
        notes.append(f"{name} {form} are treated as one-hot")
        array = array.argmax(axis=1)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "uifUS":
        raise DataError(f"{name}: found {form}, expected whole numbers or names, one for each image")
    if array.dtype.kind in "US":
        text = as_text(name, array)
        if any(map(str.isdecimal, class_names)):  # such text names a class, and does not count it
            return text, notes
        if np.char.isdecimal(text).all() and np.char.str_len(text).max() <= len(str(_LARGEST_LABEL)):
            notes.append(f"{name} of text are treated as the numbers that they spell")
            return text.astype(np.int64), notes
        return text, notes
    if array.dtype.kind == "f":
        if not np.array_equal(array, np.rint(array)):
            place = int(np.flatnonzero(array != np.rint(array))[0])
            raise DataError(f"{name}: found {array[place]} at position {place}, expected whole numbers from 0")
        notes.append(f"{name} of type {array.dtype} are treated as whole numbers")
    for place in np.flatnonzero((array < 0) | (array > _LARGEST_LABEL))[:1]:
        raise DataError(f"{name}: found {array[place]} at position {place}, expected 0 to {_LARGEST_LABEL:,}")
    return array.astype(np.int64), notes


def _by_name(
    found: dict[str, np.ndarray], class_names: tuple[str, ...] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the labels of classes that are given by name, in the order of class_names, else alphabetically."""
    if numbers := [name for name, array in found.items() if array.dtype.kind not in "US"]:
        raise DataError(f"{numbers[0]}: found numbers, but names elsewhere. Fix: use one or the other everywhere")
    train = next(iter(found.values()))
    names = class_names or tuple(np.unique(train).tolist())
    strange = {
        str(word): name for name, array in found.items() for word in np.unique(array) if str(word) not in set(names)
    }
    if strange:
        known = "class_names" if class_names else "the training labels"
        lines = [f"{name}: {word!r} is not in {known}.{did_you_mean(word, names)}" for word, name in strange.items()]
        raise DataError("\n".join(lines[:10]))
    number = {name: label for label, name in enumerate(names)}
    return {name: np.array([number[word] for word in array.tolist()], np.int32) for name, array in found.items()}, names
