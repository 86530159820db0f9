"""PyTorch's pickles, read without running anything that they ask for.

A pickle is a program for a stack machine, and can call whatever can be imported. Python's own `pickle.Unpickler` runs
it; here `pickletools` only splits it into instructions, and this file obeys those few that torch.save writes. What
a pickle builds is dictionaries, lists, tuples, numbers, text, and records of where in the file a tensor's numbers are.
Nothing is imported, called, hashed or compared but text and small whole numbers, so that no depth and no repetition
costs more than the instruction that asks for it.
"""

from __future__ import annotations

import pickletools
from typing import Any, BinaryIO, NamedTuple

MAX_INSTRUCTIONS = 200_000  # a ResNet-152 with its optimizer has some 25,000
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
# NumPy's scalars, which training scripts leave beside the weights (best_acc1); they are passed over.
_IGNORED = (
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"),
    "_codecs.encode",
)
_KNOWN = {_ORDERED_DICT, _TENSOR, _PARAMETER, _SIZE, *_IGNORED, *(f"torch.{name}" for name in STORAGES)}


class _Name(NamedTuple):
    text: str  # of a function or class; never looked up


class Ignored(NamedTuple):
    """Something that is neither tensor nor plain value."""


class Storage(NamedTuple):
    """Numbers in the file, of which tensors are views; the length is what the pickle claims."""

    key: str
    dtype: str
    length: int


class Tensor(NamedTuple):
    """A view of a storage, as the pickle claims; nothing is checked yet. Offset and strides count numbers."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class Pickle(NamedTuple):
    """What a pickle built."""

    value: Any
    storages: dict[str, Storage]  # all that it refers to


def load(file: BinaryIO) -> Pickle:
    """Read one pickle from `file`, which must lie in memory: as much is asked of it as a pickle claims to hold.

    Raises:
      ValueError: it has instructions, names or arguments that torch.save of tensors does not write.
      IndexError, KeyError: it is damaged.
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
                    raise ValueError(f"found a pickle of protocol {argument}, expected 2, that of torch.save")
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                if isinstance(argument, int) and abs(argument) >= MAX_INTEGER:
                    raise ValueError("found a whole number of more than 64 bits")
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
            case "BUILD":  # attributes: those of a state_dict tell of versions, those of a NumPy type of byte order
                stack.pop()
                if not isinstance(stack[-1], (dict, Ignored)):
                    raise ValueError("found attributes for what should have none")
            case "BINPERSID":
                storage = _storage(stack.pop())
                if storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"refers to storage {storage.key[:80]!r} in two ways")
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
    # A tuple of tuples of ... can take for ever to hash, and so can large numbers that were chosen to collide. Text has
    # salted hashes. (Before torch 1.6 an optimizer's state was keyed by its parameters' addresses.)
    if isinstance(key, int):
        return key if 0 <= key < 2**31 else f"number {key}"
    if not isinstance(key, str):
        raise ValueError(f"found {_shown(key)} as a key, expected text or a whole number")
    return key


def _name(argument: str) -> _Name:
    text = argument.replace(" ", ".", 1)  # genops joins module and name by a blank
    if text not in _KNOWN:
        raise ValueError(f"asks for {text[:80]!r}, which tensors have no use for")
    return _Name(text)


def _stand_in(function: Any, arguments: Any) -> Any:
    """Return what stands for the call of a known name."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise ValueError("calls what is not a name, or without arguments")
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
    raise ValueError(f"calls {function.text} with {len(arguments)} arguments that torch.save does not give it")


def _storage(reference: Any) -> Storage:
    match reference:
        case ("storage", _Name(kind), str(key), str(), int(length), *rest) if rest in ([], [None]):
            name = kind.removeprefix("torch.")
            if name in STORAGES:
                return Storage(key, STORAGES[name], length)
    raise ValueError("refers to numbers in a way that torch.save does not write")


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}"
