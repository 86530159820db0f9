"""Files of strangers: those of torch.save are read to the bit, all others refused before they do any harm."""

import io
import os
import pathlib
import pickle
import struct
import tarfile
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import GOLDEN
from torch_files import archive, call, checkpoint, legacy, mapping, tensor, value, whole

from saddle_jax.errors import CheckpointError
from saddle_jax.weights import archive as torch_archive

FOUR = np.arange(4, dtype=np.float32)
HUGE = 10**9
TOUCH = value("touch canary")  # in the test's own folder


def saved(piece, **storages):
    """Return a file with one tensor, made by `piece`, on storages of given contents."""
    return archive(checkpoint(mapping({"w": piece})), storages or {"k": FOUR.tobytes()})


def beside(piece):
    """Return a file whose state_dict is sound, with `piece` elsewhere in it."""
    root = mapping({"state_dict": mapping({"w": tensor("k", (4,))}), "optimizer": piece})
    return archive(whole(root), {"k": FOUR.tobytes()})


def read(tmp_path, content):
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(content)
    return torch_archive.read(path)


def old_tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as out:
        content = whole(call("os.system", TOUCH))
        info = tarfile.TarInfo("pickle")
        info.size = len(content)
        out.addfile(info, io.BytesIO(content))
    return file.getvalue()


def claiming(content, position, packed):
    """Return a zip file with other bytes at a place counted from its end."""
    start = len(content) - position
    return content[:start] + packed + content[start + len(packed) :]


def two_members():
    with pytest.warns(UserWarning, match="Duplicate name"):
        return archive(whole(b"}"), **{"archive/data.pkl": whole(call("os.system", TOUCH))})


def zip_bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", b"\0" * 2**26)
    return file.getvalue()


def overlapping():
    """Return a file whose table of contents lists one member's bytes under a hundred names."""
    content = archive(whole(b"}"), {"k": bytes(1000)})
    start, end = content.index(b"PK\1\2"), content.rindex(b"PK\5\6")
    entry = content[content.rindex(b"PK\1\2") : end]
    entries = content[start:end] + b"".join(entry.replace(b"data/k", f"da/{k:03}".encode()) for k in range(100))
    counts = struct.pack("<HHLL", 103, 103, len(entries), start)
    return content[:start] + entries + content[end : end + 8] + counts + b"\0\0"


def torchscript():
    """Return what torch.jit.save writes; its code is compressed."""
    file = io.BytesIO(archive(whole(call("__torch__.multimodal.model.CLIP")), {"0": FOUR.tobytes()}))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/code/__torch__.py", "class CLIP(Module):\n")
        out.writestr("archive/constants.pkl", whole(b")"))
    return file.getvalue()


def tuple_key():
    """Return a key that would take 2^60 steps to hash."""
    return beside(b"}" + value(1) + b"q\x01h\x01\x86" * 60 + b"Ns")


SOUND = saved(tensor("k", (4,)))
ZIP64 = (GOLDEN / "resnet8_linear.pth.tar").read_bytes()  # torch's own
MALICIOUS = {  # name: (() -> file, reason)
    "os.system": (lambda: saved(call("os.system", TOUCH)), "asks for 'os.system'"),
    "posix.system beside": (lambda: beside(call("posix.system", TOUCH)), "asks for 'posix.system'"),
    "eval": (lambda: saved(call("__builtin__.eval", value("open('canary', 'w')"))), "asks for '__builtin__.eval'"),
    "a call in an argument": (
        lambda: saved(call("torch._utils._rebuild_tensor_v2", call("os.system", TOUCH))),
        "asks for 'os.system'",
    ),
    "a call's result called": (
        lambda: beside(call("collections.OrderedDict") + b"(" + TOUCH + b"tR"),
        "a call of something that is not a name",
    ),
    "getattr": (
        lambda: beside(call("__builtin__.getattr", b"ccollections\nOrderedDict\n", value("__init__"))),
        "asks for '__builtin__.getattr'",
    ),
    "a dotted name": (
        lambda: beside(b"ccollections\nOrderedDict.__init__.__globals__\n"),
        "asks for 'collections.OrderedDict.__init__",
    ),
    "a name from the stack": (
        lambda: beside(value("os") + value("system") + b"\x93"),
        "pickle instruction STACK_GLOBAL",
    ),
    "another function of torch": (lambda: beside(call("torch.hub.load", value("x/y"))), "asks for 'torch.hub.load'"),
    "an unknown class": (lambda: beside(call("mine.Model")), "asks for 'mine.Model'"),
    "an instance": (lambda: beside(b"(" + TOUCH + b"ios\nsystem\n"), "pickle instruction INST"),
    "a new object": (lambda: beside(b"ccollections\nOrderedDict\n)\x81"), "pickle instruction NEWOBJ"),
    "an extension": (lambda: beside(b"\x82\x01"), "pickle instruction EXT1"),
    "attributes of a list": (lambda: beside(b"]" + value({"__class__": 1}) + b"b"), "attributes for an object"),
    "arguments for a dictionary": (
        lambda: beside(call("collections.OrderedDict", value([[1, 2]]))),
        "1 arguments that torch.save does not give",
    ),
    "a network of TorchScript": (
        torchscript,
        r"TorchScript archive.* OpenAI's .*Fix: if .*torch.jit.load\('\S+', map_location='cpu'\).state_dict\(\), NEW",
    ),
    "a plain pickle": (lambda: whole(call("os.system", TOUCH)), "neither of torch's formats"),
    "a legacy tar": (old_tar, "a tar file"),
    "code in the legacy layout": (
        lambda: legacy(whole(call("os.system", TOUCH)), [], {}),
        "asks for 'os.system'",
    ),
    "an absolute member": (lambda: archive(whole(b"}"), **{"/tmp/canary": "x"}), "member named '/tmp/canary'"),
    "a member above": (lambda: archive(whole(b"}"), **{"archive/../../x": "x"}), "member named 'archive/"),
    "a member with backslashes": (lambda: archive(whole(b"}"), **{"archive/..\\x": "x"}), "found a member named"),
    "two folders": (lambda: archive(whole(b"}"), **{"other/x": "x"}), "found 2 folders"),
    "two members of a name": (two_members, "two members named 'data.pkl'"),
    "a zip bomb": (zip_bomb, "a compressed member"),
    "members that share their bytes": (overlapping, "members that add up to more than the file"),
    "a table of contents of gigabytes": (lambda: claiming(SOUND, 10, struct.pack("<L", HUGE)), "contents of 1,000,000"),
    "a table of contents of gigabytes, of 64 bits": (
        lambda: claiming(ZIP64, 58, struct.pack("<Q", HUGE)),
        "contents of 1,000,000",
    ),
    "a table of contents elsewhere": (lambda: claiming(ZIP64, 34, struct.pack("<Q", 30)), "that refers elsewhere"),
    "a storage larger than the file": (
        lambda: saved(tensor("k", (HUGE,))),
        "claims 1,000,000,000 numbers of float32, but its part of the file has 16 bytes",
    ),
    "a storage larger than a legacy file": (
        lambda: legacy(checkpoint(mapping({"w": tensor("k", (HUGE,))})), ["k"], {"k": FOUR.tobytes()}),
        "claims 1,000,000,000 numbers, but the file has fewer",
    ),
    "a storage that is not there": (lambda: saved(tensor("x", (4,))), "damaged .KeyError: 'data/x'"),
    "a view beyond its storage": (lambda: saved(tensor("k", (2, 2), (1, 3), length=4)), "beyond its 4 numbers"),
    "an offset beyond its storage": (lambda: saved(tensor("k", (2,), length=4, offset=3)), "beyond its 4 numbers"),
    "a negative offset": (lambda: saved(tensor("k", (2,), length=4, offset=-1)), "do not describe a tensor"),
    "negative strides": (lambda: saved(tensor("k", (4,), (-1,), offset=3)), "do not describe a tensor"),
    "a negative shape": (lambda: saved(tensor("k", (-1, -4), length=4)), "do not describe a tensor"),
    "overlapping strides": (lambda: saved(tensor("k", (2, 3), (1, 1), length=4)), "same numbers more than once"),
    "a broadcast to gigabytes": (lambda: saved(tensor("k", (HUGE,), (0,), length=4)), "more than once"),
    "strides of text": (lambda: saved(tensor("k", (4,), ("1",))), "not given as torch.save gives it"),
    "another dtype": (lambda: saved(tensor("k", (2,), kind="ComplexFloatStorage")), "asks for 'torch.ComplexFloat"),
    "another dtype than the storage's": (
        lambda: saved(tensor("k", (4,), kind="DoubleStorage")),
        "4 numbers of float64, but its part of the file has 16 bytes",
    ),
    "a storage of two dtypes": (
        lambda: archive(
            checkpoint(mapping({"a": tensor("k", (4,)), "b": tensor("k", (2,), kind="DoubleStorage")})),
            {"k": FOUR.tobytes()},
        ),
        "storage 'k' described in two ways",
    ),
    "a billion tensors announced": (lambda: beside(b"}r" + struct.pack("<L", HUGE) + b"J\xff\xff\xff\x7f0"), "POP"),
    "ten thousand and one tensors": (
        lambda: archive(
            checkpoint(call("collections.OrderedDict") + b"(" + value("w") + tensor("k", (4,)) + b"q\1"
                       + b"".join(value(str(k)) + b"h\1" for k in range(10_000)) + b"u"),
            {"k": FOUR.tobytes()},
        ),
        "found 10,001 tensors",
    ),
    "a million instructions": (lambda: beside(b"]" * 10**6), "more than 200,000 instructions"),
    "text of gigabytes": (lambda: beside(b"X" + struct.pack("<L", HUGE) + b"x"), "only"),
    "a number of a thousand bits": (lambda: beside(b"\x8a\xff" + b"\x7f" * 255), "more than 64 bits"),
    "a tuple that is too deep to hash": (tuple_key, "found a tuple as a key"),
    "a depth of 90,000": (lambda: saved(b"(" * 90_000 + b"t" * 90_000), "found 'w' of type tuple, expected a tensor"),
    "no values on the stack": (lambda: beside(b"\x87\x87\x87"), "damaged"),
    "a mark that is missing": (lambda: archive(b"\x80\x02t."), "damaged"),
    "an unknown instruction": (lambda: beside(b"\xfe"), "unknown"),
    "another protocol": (lambda: archive(pickle.dumps({"state_dict": {}}, 4)), "protocol 4, expected 2"),
    "a weight that is a number": (lambda: saved(value(3)), "found 'w' of type int, expected a tensor"),
    "no weights": (lambda: archive(whole(value({"epoch": 3}))), "found 'epoch' of type int, expected a tensor"),
    "big-endian numbers": (lambda: archive(whole(b"}"), byteorder="big"), "big-endian byte order"),
    "legacy big-endian numbers": (lambda: legacy(whole(b"}"), [], {}, little_endian=False), "big-endian byte order"),
    "a legacy storage listed twice": (
        lambda: legacy(checkpoint(mapping({"w": tensor("k", (4,))})), ["k", "k"], {"k": FOUR.tobytes()}),
        "no list of distinct storages",
    ),
    "a name of a thousand letters": (
        lambda: archive(checkpoint(mapping({"w" * 1000: tensor("k", (4,))})), {"k": FOUR.tobytes()}),
        "found a tensor named",
    ),
    "nothing": (lambda: b"", "neither of torch's formats"),
    "an empty state_dict": (lambda: archive(checkpoint(mapping({}))), "found no state_dict"),
    "a flipped bit": (lambda: SOUND.replace(FOUR.tobytes(), FOUR[::-1].tobytes()), "Bad CRC-32"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_malicious_file_is_refused_before_it_does_harm(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, reason = MALICIOUS[kind]
    content = make()
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(CheckpointError, match=reason) as refused:
        read(tmp_path, content)
    took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.exit_code == 4
    assert "nothing in it was run" in str(refused.value)
    assert not pathlib.Path("canary").exists()
    assert took < 5
    assert peak < 2 * len(content) + 2**25


def test_the_canary_would_show(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(whole(call("os.system", TOUCH)))
    assert pathlib.Path("canary").exists()


@pytest.mark.parametrize("name", ["resnet8_linear.pth.tar", "resnet8_normed.pth.tar"])
def test_a_truncated_file_is_refused_wherever_it_ends(name, tmp_path):
    content = (GOLDEN / name).read_bytes()
    assert read(tmp_path, content).epoch == 2
    for length in [*range(0, len(content), 499), *range(len(content) - 100, len(content))]:
        with pytest.raises(CheckpointError):
            read(tmp_path, content[:length])


def test_what_is_too_large_or_no_file_is_refused(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="found no file"):
        torch_archive.read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="found no file"):
        torch_archive.read(tmp_path / "pipe")
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(torch_archive.MAX_FILE + 1)
    with pytest.raises(CheckpointError, match="expected at most 4,294,967,296"):
        torch_archive.read(sparse)
    monkeypatch.setattr(torch_archive, "MAX_PICKLE", 100)
    with pytest.raises(CheckpointError, match="data.pkl of"):
        read(tmp_path, SOUND)


def test_views_are_read_as_they_lie(tmp_path):
    twelve = np.arange(12, dtype=np.float32)
    pieces = {
        "a": tensor("k", (2, 3), length=12),
        "transposed": tensor("k", (3, 2), (1, 3), length=12, offset=6),
        "one": tensor("k", (1, 1, 3), (99, 0, 2), length=12, offset=1),
        "scalar": tensor("n", (), kind="LongStorage"),
        "empty": tensor("k", (0, 3), length=12),
        "parameter": call("torch._utils._rebuild_parameter", tensor("k", (12,)), value(True), mapping({})),
    }
    content = archive(checkpoint(mapping(pieces)), {"k": twelve.tobytes(), "n": np.int64(7).tobytes()})
    found = read(tmp_path, content).tensors
    expected = {
        "a": twelve[:6].reshape(2, 3),
        "transposed": twelve[6:].reshape(2, 3).T,
        "one": twelve[1:6:2].reshape(1, 1, 3),
        "scalar": np.array(7),
        "empty": np.empty((0, 3), np.float32),
        "parameter": twelve,
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert array.size == 0 or not found[name].flags.writeable


def test_what_is_beside_the_weights_is_not_read(tmp_path):
    """An optimizer's storage that the file does not even have keeps nobody from the weights."""
    content = beside(tensor("elsewhere", (HUGE,)))
    np.testing.assert_array_equal(read(tmp_path, content).tensors["w"], FOUR)
    for epoch in (-1, 2**40, True, "3", 2.0):
        root = mapping({"state_dict": mapping({"w": tensor("k", (4,))}), "epoch": value(epoch)})
        assert read(tmp_path, archive(whole(root), {"k": FOUR.tobytes()})).epoch is None


def test_the_optimizer_of_an_old_file_is_keyed_by_addresses(tmp_path):
    weights = tensor("k", (4,))
    state = b"}(" + value(140_213_557_313_664) + mapping({"momentum_buffer": tensor("m", (4,))}) + value(-1) + b"Nu"
    optimizer = mapping({"state": state, "param_groups": value([{"lr": 0.1, "params": [140_213_557_313_664]}])})
    root = whole(mapping({"epoch": value(3), "state_dict": mapping({"w": weights}), "optimizer": optimizer}))
    found = read(tmp_path, legacy(root, ["k", "m"], {"k": FOUR.tobytes(), "m": FOUR.tobytes()}))
    np.testing.assert_array_equal(found.tensors["w"], FOUR)
    assert found.epoch == 3


def test_keys_that_were_chosen_to_collide_cost_nothing(tmp_path):
    """As numbers, these would differ in the last bits that a dictionary looks at."""
    content = beside(value(dict.fromkeys(range(0, 2**63, 2**48), 1)))
    began = time.monotonic()
    np.testing.assert_array_equal(read(tmp_path, content).tensors["w"], FOUR)
    assert time.monotonic() - began < 5


def test_a_bare_state_dict_is_a_checkpoint_without_epoch(tmp_path):
    found = read(tmp_path, archive(whole(mapping({"w": tensor("k", (4,))})), {"k": FOUR.tobytes()}))
    np.testing.assert_array_equal(found.tensors["w"], FOUR)
    assert found.epoch is None and found.arch is None and found.part is None and not found.others


@pytest.mark.parametrize(
    ("entries", "others"),
    [
        (("state_dict",), ()),
        (("state_dict_ema", "state_dict"), ("state_dict_ema",)),
        (("ema", "model"), ("ema",)),
        (("ema",), ()),
    ],
)
def test_the_entry_that_was_taken_is_told(entries, others, tmp_path):
    """The last entry of each row is right. Averages are taken only where there is nothing else."""
    pieces = {name: mapping({name: tensor("k", (4,))}) for name in entries}
    found = read(tmp_path, archive(whole(mapping({"epoch": value(3), **pieces})), {"k": FOUR.tobytes()}))
    assert (found.part, found.others, found.epoch) == (entries[-1], others, 3)
    assert list(found.tensors) == [entries[-1]]


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_what_torch_writes_is_read_to_the_bit(layout, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    tensors = {
        "float32": torch.randn(3, 5),
        "float64": torch.randn(3, dtype=torch.float64),
        "float16": torch.randn(3).half(),
        "bfloat16": torch.randn(3, 2).bfloat16(),
        "int64": torch.tensor(2**40),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "view": base[1:3, 2:],
        "transposed": base.t(),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "empty": torch.empty(0, 3),
    }
    extra = {"parameter": torch.nn.Parameter(torch.randn(2))}
    path = tmp_path / "checkpoint.pth"
    rest = {"epoch": 7, "arch": "any", "best_acc1": np.float32(3), "lr": 0.1, "done": (True, None, [1, -1, 2**33])}
    content = {"state_dict": tensors | extra, **rest}
    torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    found = torch_archive.read(path)
    assert (found.epoch, found.arch) == (7, "any")
    assert found.tensors.keys() == {*tensors, *extra}
    for name, tensor_ in (tensors | extra).items():
        tensor_ = tensor_.detach()
        array = found.tensors[name]
        assert array.shape == tuple(tensor_.shape) and str(array.dtype) == str(tensor_.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(array.astype(np.float64), tensor_.double().numpy())
