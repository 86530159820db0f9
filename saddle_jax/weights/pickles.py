"""Read PyTorch's pickles without running any code that they ask for.

A pickle is a program for a stack machine and can call anything that can be imported. Python's own `pickle.Unpickler`
runs that program. Here, `pickletools` only splits it into instructions, and this module follows the few that torch.save
writes. The result contains dictionaries, lists, tuples, numbers, text, and records of where in the file a tensor's
numbers are.

Nothing is imported or called. Only text and small integers are hashed or compared, so deep or repeated structures cost
no more than their instructions.
"""

from __future__ import annotations

import pickletools
from typing import Any, BinaryIO, NamedTuple

MAX_INSTRUCTIONS = 200_000  # a ResNet-152 with its optimizer has about 25,000
MAX_INTEGER = 2**63

STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR, _PARAMETER, _SIZE = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.Size"
# NumPy scalars, which training scripts save next to the weights (best_acc1), are ignored.
_IGNORED = (
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"),
    "_codecs.encode",
)
_KNOWN = {_ORDERED_DICT, _TENSOR, _PARAMETER, _SIZE, *_IGNORED, *(f"torch.{name}" for name in STORAGES)}


class _Name(NamedTuple):
    text: str  # dotted name of a function or class; never looked up


class Ignored(NamedTuple):
    """Placeholder for an object that is neither a tensor nor a plain value."""


class Storage(NamedTuple):
    """Numbers in the file on which tensors are views. The length is the pickle's claim."""

    key: str
    dtype: str
    length: int


class Tensor(NamedTuple):
    """View of a storage as the pickle describes it, unchecked. Offset and strides count numbers, not bytes."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class Pickle(NamedTuple):
    """Result of a pickle."""

    value: Any
    storages: dict[str, Storage]  # all storages that it refers to


def load(file: BinaryIO) -> Pickle:
    """Read one pickle from `file`.

    Args:
      file: a file in memory, because a read may ask for as many bytes as the pickle claims to hold.

    Raises:
      ValueError: the pickle has instructions, names, or arguments that torch.save does not write for tensors.
      IndexError, KeyError: the pickle is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}

    def since_mark() -> list[Any]:
        height = marks.pop()
        items = stack[height:]
        del stack[height:]
        return items

    for number, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if number == MAX_INSTRUCTIONS:
            raise ValueError(f"found a pickle of more than {MAX_INSTRUCTIONS:,} instructions")
        match instruction.name:
            case "PROTO":
                if argument != 2:
                    raise ValueError(f"found a pickle of protocol {argument}, expected 2, as torch.save writes")
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                if isinstance(argument, int) and abs(argument) >= MAX_INTEGER:
                    raise ValueError("found an integer of more than 64 bits")
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(instruction.name[-1])
                stack[-length:] = [tuple(_top(stack, length))]
            case "APPEND":
                value = stack.pop()
                _last(stack, list).append(value)
            case "APPENDS":
                values = since_mark()
                _last(stack, list).extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _last(stack, dict)[_key(key)] = value
            case "SETITEMS":
                items = since_mark()
                _last(stack, dict).update(zip(map(_key, items[::2]), items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_name(argument))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_stand_in(function, arguments))
            case "BUILD":  # sets attributes: versions for a state_dict, byte order for a NumPy type; dropped
                stack.pop()
                if not isinstance(stack[-1], (dict, Ignored)):
                    raise ValueError("found attributes for an object that should have none")
            case "BINPERSID":
                storage = _storage(stack.pop())
                if storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"found storage {storage.key[:80]!r} described in two ways")
                stack.append(storage)
            case "STOP":
                return Pickle(stack.pop(), storages)
            case name:
                raise ValueError(f"found the pickle instruction {name}, which torch.save does not write")
    raise ValueError("found a pickle without an end")


def _top(stack: list[Any], length: int) -> list[Any]:
    if len(stack) < length:
        raise IndexError("the stack is empty")
    return stack[-length:]


def _last(stack: list[Any], kind: type) -> Any:
    if type(stack[-1]) is not kind:
        raise ValueError(f"found items for {_shown(stack[-1])}, expected a {kind.__name__}")
    return stack[-1]


def _key(key: Any) -> str | int:
    # Nested tuples can take forever to hash, and so can large integers that were chosen to collide. Text hashes are
    # salted. (Before torch 1.6, the keys of an optimizer's state were its parameters' addresses.)
    if isinstance(key, int):
        return key if 0 <= key < 2**31 else f"number {key}"
    if not isinstance(key, str):
        raise ValueError(f"found {_shown(key)} as a key, expected text or an integer")
    return key


def _name(argument: str) -> _Name:
    text = argument.replace(" ", ".", 1)  # genops joins module and name with a space
    if text not in _KNOWN:
        raise ValueError(f"the file asks for {text[:80]!r}, which tensors do not need")
    return _Name(text)


def _stand_in(function: Any, arguments: Any) -> Any:
    """Return the value that represents a call of a known name."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise ValueError("found a call of something that is not a name, or without arguments")
    if function.text in _IGNORED:
        return Ignored()
    if function.text == _ORDERED_DICT and not arguments:
        return {}
    if function.text == _TENSOR and len(arguments) in (6, 7):
        return Tensor(*arguments[:4])
    if function.text == _PARAMETER and len(arguments) == 3 and isinstance(arguments[0], Tensor):
        return arguments[0]
    if function.text == _SIZE and len(arguments) == 1 and type(arguments[0]) is tuple:
        return arguments[0]
    raise ValueError(
        f"found a call of {function.text} with {len(arguments)} arguments that torch.save does not give it"
    )


def _storage(reference: Any) -> Storage:
    match reference:
        case ("storage", _Name(kind), str(key), str(), int(length), *rest) if rest in ([], [None]):
            name = kind.removeprefix("torch.")
            if name in STORAGES:
                return Storage(key, STORAGES[name], length)
    raise ValueError("found a reference to numbers that torch.save does not write")


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}"
