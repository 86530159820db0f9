"""Vision Transformers: publishers' figures and names, position embeddings, adapters, depth, arithmetic, derivatives."""

import functools
import json

import golden_vit as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT  # noqa: F401 (its devices)
from flax import traverse_util
from torch_libraries import library

from configs import default
from saddle_jax.errors import ConfigError
from saddle_jax.experiment import checks
from saddle_jax.experiment.catalogue import ENTRIES
from saddle_jax.models import adapters, heads, vit
from saddle_jax.models.base import from_flax
from saddle_jax.weights import archive, names
from saddle_jax.weights.publishers.vit import PUBLISHERS

pytestmark = pytest.mark.usefixtures("compile_quickly")
TINY = vit.Architecture(golden.PATCH, golden.DIM, golden.DEPTH, golden.HEADS, golden.PROJECTION)
PUBLISHED = {  # (name, variant, pixels): timm's parameters without a classifier, of CLIP with the projection
    ("vit_s16", "augreg", 224): 21_665_664,
    ("vit_b16", "clip", 224): 86_192_640,
    ("vit_l14", "dinov2", 518): 304_367_616,
}


@functools.cache
def tiny(variant="augreg", **fields):
    head = heads.Linear(golden.CLASSES)
    return from_flax(vit.VisionTransformer(TINY, vit.VARIANTS[variant], **fields), head)


def network_of(name, variant, **fields):
    config = default.get_config()
    config.model.name = name
    config[name].update(variant=variant, **fields)
    return vit.make(config[name], config.model, golden.CLASSES, None)


def shapes_of(network, size=golden.SIZE):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), (*size, 3)))[0]


def drawn(network, size=golden.SIZE):
    """Return parameters that are no initial values."""
    paths = traverse_util.flatten_dict(shapes_of(network, size), sep=".")
    values = {path: golden.value(path, leaf.shape).astype(leaf.dtype) for path, leaf in paths.items()}
    return traverse_util.unflatten_dict(values, sep=".")


@functools.cache
def compiled(network, train):
    return jax.jit(functools.partial(network.features, train=train))


def features_of(network, params, images=None, *, train=False, key=None):
    images = 2 * golden.draw("images", (3, *golden.SIZE, 3)) if images is None else images
    return compiled(network, train)(params, {}, images, np.ones(len(images), bool), key=key)[0]


def read(tensors, network, size=golden.SIZE):
    """Return the parameters that a publisher's tensors are, and his name. There may be no tensors for the head."""
    found = [publisher for publisher in PUBLISHERS if publisher.recognizes(tensors.keys())]
    assert len(found) <= 1
    tensors = found[0].translate(tensors) if found else tensors
    expected = shapes_of(network, size)
    if not any(name.startswith("head.") for name in tensors):
        del expected["linear"]
    return names.convert(tensors, expected, {})[0], found[0].name if found else ""


@pytest.mark.parametrize("name", golden.CASES)
def test_features_equal_those_of_publishers(name, x64):
    case = golden.CASES[name]
    with np.load(golden.FILE) as store:
        shapes, expected = json.loads(str(store[f"{name}/shapes"])), store[f"{name}/features"]
    network = tiny(case.variant, registers=case.registers)
    params, publisher = read(golden.tensors_of(shapes, name), network, case.size)
    assert publisher == case.publisher
    assert ("linear" in params) == case.has_head
    np.testing.assert_allclose(features_of(network, params, golden.images_of(case)), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["timm", "transformers"])
def test_the_figures_are_those_of_the_library_at_hand(name):
    library("timm"), library(name)
    with np.load(golden.FILE) as store:
        for key, found in golden.figures(name).items():
            if key.endswith("features"):
                np.testing.assert_allclose(found, store[key], rtol=1e-7, atol=1e-9, err_msg=key)
            else:
                assert json.loads(str(found)) == json.loads(str(store[key]))


@pytest.mark.parametrize("name", ["timm_clip", "timm_registers"])
def test_a_file_of_timm_is_read(name, tmp_path):
    torch, case = library("torch"), golden.CASES[name]
    library("timm")
    original = golden.timm_network(case)
    golden.fill(original, name)
    torch.save(original.float().state_dict(), tmp_path / "network.pth")
    network = tiny(case.variant, registers=case.registers)
    params, _ = read(dict(archive.read(tmp_path / "network.pth").tensors), network, case.size)
    found = features_of(network, params, golden.images_of(case).astype(np.float32))
    expected = golden.features_of(original.double(), case)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_further_forms_of_names_are_read():
    by_name = {publisher.name: publisher for publisher in PUBLISHERS}

    def tensors_of(case):
        with np.load(golden.FILE) as store:
            return golden.tensors_of(json.loads(str(store[f"{case}/shapes"])), case)

    def assert_equal(case, other):
        publisher, tensors = by_name[golden.CASES[case].publisher], tensors_of(case)
        assert other.keys() != tensors.keys()
        assert publisher.recognizes(other.keys())
        jax.tree.map(np.testing.assert_array_equal, publisher.translate(other), publisher.translate(tensors))

    def renamed(case, *pairs):
        return {functools.reduce(lambda n, pair: n.replace(*pair), pairs, n): x for n, x in tensors_of(case).items()}

    blocks_in_chunks = ("blocks.0.", "blocks.0.0."), ("blocks.1.", "blocks.1.1.")
    assert_equal("dinov2_registers", renamed("dinov2_registers", *blocks_in_chunks))
    tower_alone = {n.removeprefix("visual."): x for n, x in tensors_of("openai").items() if n.startswith("visual.")}
    assert_equal("openai", tower_alone)
    with_buffer = {**tensors_of("hugging_face_clip"), "vision_model.embeddings.position_ids": np.arange(5)}
    assert_equal("hugging_face_clip", with_buffer)
    assert_equal("hugging_face_clip_vision", renamed("hugging_face_clip_vision", ("vision_model.", "")))
    projections = [(f"attention.{word}.", f"{word[0]}_proj.") for word in ("query", "key", "value")]
    modules = ("encoder.layer.", "layers."), ("attention.output.dense", "attention.o_proj"), *projections
    layers = ("intermediate.dense", "mlp.fc1"), (".output.dense", ".mlp.fc2")
    assert_equal("hugging_face_vit", renamed("hugging_face_vit", *modules, *layers))
    assert_equal("hugging_face_dinov2", renamed("hugging_face_dinov2", *modules))
    google = {f"opt/target/{name}": x for name, x in tensors_of("augreg_npz").items()}
    assert_equal("augreg_npz", {**google, "opt/state/step": np.zeros(())})


def test_a_trained_classifier_on_timms_clip_is_no_projection():
    tensors = {"norm_pre.weight": np.ones(2), "head.weight": np.ones((3, 2)), "head.bias": np.ones(3)}
    timm = PUBLISHERS[0]
    assert timm.translate(tensors).keys() == tensors.keys()
    assert timm.translate({**tensors, "head.bias": np.zeros(3)}).keys() == {"norm_pre.weight", "proj.weight"}


@pytest.mark.parametrize(("name", "variant", "size"), PUBLISHED)
def test_published_sizes(name, variant, size):
    network = network_of(name, variant)
    params = network.backbone_params(shapes_of(network, (size, size)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PUBLISHED[name, variant, size]


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "variant", "registers", "theirs"),
    [
        ("vit_b16", "augreg", 0, "vit_base_patch16_224"),
        ("vit_b16", "clip", 0, "vit_base_patch16_clip_quickgelu_224"),
        ("vit_s14", "dinov2", 4, "vit_small_patch14_reg4_dinov2"),
    ],
)
def test_networks_of_real_size_equal_timms(name, variant, registers, theirs, tmp_path):
    torch, timm = library("torch"), library("timm")
    own = {"num_classes": 512} if variant == "clip" else {"num_classes": 0, "img_size": 224}
    original = timm.create_model(theirs, **own).eval()
    if variant == "clip":
        torch.nn.init.zeros_(original.head.bias)
    torch.save(original.state_dict(), tmp_path / "network.pth")
    network = network_of(name, variant, registers=registers)
    params, _ = read(dict(archive.read(tmp_path / "network.pth").tensors), network, (224, 224))
    images = 2 * golden.draw("real", (2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        tensor = torch.from_numpy(images.transpose(0, 3, 1, 2))
        expected = original(tensor).numpy()
    found = features_of(network, params, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("grid", [(4, 4), (7, 7), (16, 16), (37, 37), (14, 20), (2, 8)])
@pytest.mark.parametrize("prefix", [0, 1])
def test_positions_are_resized_as_by_timm(grid, prefix):
    torch = library("torch")
    library("timm")
    from timm.layers import resample_abs_pos_embed

    positions = golden.draw("positions", (1, 14 * 14 + prefix, 6)).astype(np.float32)
    expected = resample_abs_pos_embed(torch.from_numpy(positions), list(grid), num_prefix_tokens=prefix)
    np.testing.assert_allclose(vit.resize_positions(positions, grid), expected, atol=1e-5)


def test_positions_of_the_same_size_stay_and_others_must_be_square():
    positions = golden.draw("positions", (1, 17, 6))
    np.testing.assert_array_equal(vit.resize_positions(positions, (4, 4)), positions.astype(np.float32))
    doubled = vit.resize_positions(np.ones((1, 16, 6), np.float32), (8, 2))
    np.testing.assert_allclose(doubled, np.ones((1, 16, 6)), rtol=1e-6)
    with pytest.raises(ValueError, match="found 18 positions, expected those of a square grid"):
        vit.resize_positions(np.ones((1, 18, 6)), (4, 4))


@pytest.mark.parametrize(
    ("adapter", "module", "first", "deviation"),
    [("lora", adapters.LoRA, "a", 12**-0.5), ("adaptformer", adapters.AdaptFormer, "down.kernel", 48**-0.5)],
)
def test_new_adapters_change_nothing(adapter, module, first, deviation):
    plain, adapted = tiny(), tiny(adapter=adapter, rank=4)
    new = module(4, None).init(jax.random.key(0), jnp.ones((1, 1, golden.DIM)))["params"]
    start = traverse_util.flatten_dict(new, sep=".")[first]
    assert np.std(start) == pytest.approx(deviation, rel=0.2)
    assert adapter != "lora" or np.abs(start).max() < 0.5  # uniform
    without = drawn(plain)
    params = traverse_util.flatten_dict(without, sep=".")
    paths = traverse_util.flatten_dict(shapes_of(adapted), sep=".").keys() - params.keys()
    assert len({path.partition(".")[0] for path in paths}) == golden.DEPTH
    for path in paths:
        name = next(name for modules in adapters.ADAPTERS.values() for name in modules if f".{name}." in path)
        params[path] = traverse_util.flatten_dict(new, sep=".")[path.partition(f"{name}.")[2]]
    params = traverse_util.unflatten_dict(params, sep=".")
    np.testing.assert_array_equal(features_of(adapted, params), features_of(plain, without))


def test_adaptformer_computes_what_lift_computes(x64):
    module, x = adapters.AdaptFormer(3, None), golden.draw("tokens", (2, 4, golden.DIM))
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    paths = traverse_util.flatten_dict(shapes, sep=".")
    own = {path: golden.value(path, leaf.shape) for path, leaf in paths.items()}
    own["scale"] = np.array([0.7])
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y = np.maximum((y * own["norm.scale"] + own["norm.bias"]) @ own["down.kernel"] + own["down.bias"], 0)
    y = (y @ own["up.kernel"] + own["up.bias"]) * 0.7
    params = traverse_util.unflatten_dict(own, sep=".")
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, x), y, rtol=1e-9)


def test_adaptformer_is_beside_the_two_layers(x64):
    """Where those return 0, a block adds the adapter's output for what has passed its attention."""
    network = tiny(adapter="adaptformer", rank=3)
    block = drawn(network)["blocks_1"]
    x = golden.draw("tokens", (2, 4, golden.DIM))
    nothing = jax.tree.map(np.zeros_like, block["mlp"])

    @functools.partial(jax.jit, static_argnums=1)
    def output(params, adapter):
        return vit.Block(TINY, vit.VARIANTS["augreg"], 0.0, adapter, 3, None).apply({"params": params}, x, False)

    attended = output({**block, "mlp": nothing}, "none")
    added = jax.jit(adapters.AdaptFormer(3, None).apply)({"params": block["adapter"]}, attended)
    found = output({**block, "mlp": nothing}, "adaptformer")
    np.testing.assert_allclose(found, attended + added, rtol=1e-9)


def test_lora_is_merged(x64):
    network = tiny("clip", adapter="lora", rank=3)
    params = drawn(network)
    merged = adapters.merged(params)
    assert jax.tree.structure(merged) == jax.tree.structure(shapes_of(tiny("clip")))
    expected = features_of(network, params)
    np.testing.assert_allclose(features_of(tiny("clip"), merged), expected, rtol=1e-9)
    lora, kernel = params["blocks_0"]["attn"]["lora_v"], params["blocks_0"]["attn"]["qkv"]["kernel"]
    change = merged["blocks_0"]["attn"]["qkv"]["kernel"] - kernel
    np.testing.assert_array_equal(change[:, golden.DIM : 2 * golden.DIM], 0)
    np.testing.assert_allclose(change[:, 2 * golden.DIM :], lora["a"] @ lora["b"] / 3, atol=1e-12)
    with pytest.raises(ValueError, match="AdaptFormer can't be merged"):
        adapters.merged(shapes_of(tiny(adapter="adaptformer", rank=1)))


@pytest.mark.parametrize(
    ("classes", "layers", "rank"),
    [(100, 12, 4), (365, 12, 8), (1000, 12, 32), (8142, 12, 256), (10, 12, 1), (1000, 24, 16), (96, 12, 4)],
)
def test_rank_follows_lift(classes, layers, rank):
    assert adapters.rank_of(classes, layers) == rank


def test_training_chooses_the_adapter(monkeypatch):
    monkeypatch.setitem(vit.ARCHITECTURES, "vit_s16", TINY)
    config = default.get_config()
    with config.model.unlocked():
        config.model.update(name="vit_s16", train="lora", rank=0)

    def block():
        return shapes_of(vit.make(config.vit_s16, config.model, 33, None))["blocks_1"]

    assert block()["attn"]["lora_q"]["a"].shape == (golden.DIM, 8)
    config.model.update(train="adaptformer", rank=3)
    assert block()["adapter"]["down"]["kernel"].shape == (golden.DIM, 3)
    config.model.train = "norm"
    assert block().keys() == {"norm1", "attn", "norm2", "mlp"}


def test_images_skip_blocks_in_training():
    rate = 0.75
    network = tiny(drop_path=rate)
    params, rows = drawn(network), 64
    images = np.broadcast_to(2 * golden.draw("image", (1, *golden.SIZE, 3)), (rows, *golden.SIZE, 3))
    images = images.astype(np.float32)
    evaluated = features_of(network, params, images)
    np.testing.assert_array_equal(evaluated, features_of(tiny(), params, images))

    key = jax.random.key(1)
    features = np.asarray(features_of(network, params, images, train=True, key=key))
    np.testing.assert_array_equal(features, features_of(network, params, images, train=True, key=key))
    other = features_of(network, params, images, train=True, key=jax.random.key(2))
    assert not np.array_equal(features, other)
    # The first block is never skipped. Of the last one, each image skips none, one, or both parts.
    kinds, counts = np.unique(features.round(3), axis=0, return_counts=True)
    assert len(kinds) == 4
    last = params["blocks_1"]
    nothing = {**last, "attn": {**last["attn"], "proj": jax.tree.map(np.zeros_like, last["attn"]["proj"])}}
    nothing["mlp"] = {**last["mlp"], "fc2": jax.tree.map(np.zeros_like, last["mlp"]["fc2"])}
    skipped = features_of(tiny(), {**params, "blocks_1": nothing}, images[:1])
    is_skipped = np.abs(kinds - skipped).max(1) < 2e-3
    assert is_skipped.sum() == 1
    assert 0.35 < counts[is_skipped][0] / rows < 0.8  # 0.75² expected


def test_every_block_is_computed_again():
    for remat, blocks in ((False, 0), (True, golden.DEPTH)):
        network = tiny(remat=remat, drop_path=0.5)
        params = shapes_of(network)

        def loss(params, images, network=network):
            mask = jnp.ones(2, bool)
            return network.features(params, {}, images, mask, train=True, key=jax.random.key(0))[0].sum()

        images = jax.ShapeDtypeStruct((2, *golden.SIZE, 3), jnp.float32)
        assert str(jax.make_jaxpr(jax.grad(loss))(params, images)).count("remat2[") == blocks


def test_products_with_the_hessian(x64):
    architecture, head = TINY._replace(depth=1), heads.Linear(golden.CLASSES)
    fields = {"adapter": "lora", "rank": 2, "remat": True}
    network = from_flax(vit.VisionTransformer(architecture, vit.VARIANTS["dinov2"], **fields), head)
    params, images = drawn(network), golden.images_of(golden.CASES["openai"])

    def loss(params):
        logits, _ = network.logits(params, {}, images, np.ones(len(images), bool), train=False)
        return jax.nn.logsumexp(logits, axis=1).mean() - logits[:, 0].mean()

    @jax.jit
    def product(params, v):
        return jax.jvp(jax.grad(loss), (params,), (v,))

    def directed(name):
        paths = traverse_util.flatten_dict(params, sep=".")
        values = {path: golden.draw(name + path, np.shape(leaf)) for path, leaf in paths.items()}
        return traverse_util.unflatten_dict(values, sep=".")

    def dot(one, other):
        return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))

    u, v = directed("u"), directed("v")
    (_, hu), (_, hv) = product(params, u), product(params, v)
    np.testing.assert_allclose(dot(u, hv), dot(v, hu), rtol=1e-9)
    step = 1e-5
    ahead, back = (product(jax.tree.map(lambda w, v, s=s: w + s * step * v, params, v), v)[0] for s in (1, -1))
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, back)
    np.testing.assert_allclose(dot(hv, difference), dot(hv, hv), rtol=1e-6)


def test_bfloat16_keeps_parameters_softmax_and_features_in_float32():
    fields = {"adapter": "lora", "rank": 2}
    exact, rounded = tiny("clip", **fields), tiny("clip", dtype=jnp.bfloat16, **fields)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(rounded))} == {np.dtype("float32")}
    params = drawn(exact)
    expected, found = features_of(exact, params), features_of(rounded, params)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    images = jax.ShapeDtypeStruct((2, *golden.SIZE, 3), jnp.float32)
    text = str(jax.make_jaxpr(lambda p, x: rounded.features(p, {}, x, jnp.ones(2, bool), train=False))(params, images))
    exponentials = [line for line in text.splitlines() if "= exp " in line]
    assert len(exponentials) == golden.DEPTH
    assert all(":f32" in line for line in exponentials)


def test_what_does_not_fit_is_told():
    with pytest.raises(ConfigError, match=r"images of 20 x 16 pixels, expected sides that are multiples of 8.*16 x 16"):
        shapes_of(tiny(), (20, 16))
    config = default.get_config()
    config.model.update(name="vit_b14", width=0.5, batch_norm="synchronized")
    config.vit_b14.registers = 4
    config.data.image_size = 225
    told = "\n".join(checks.problems_of(config))
    for part in (
        "model.width=0.5 does not go with model.name='vit_b14': its sizes are fixed",
        "model.batch_norm='synchronized' does not go with",
        "vit_b14.registers=4 does not go with vit_b14.variant='augreg'",
        "data.image_size: found 225, expected a multiple of 14, the side of a patch of model.name='vit_b14'. "
        "Fix: --config.data.image_size=224",
    ):
        assert part in told
    assert {name for name in ENTRIES["model.name"] if name.startswith("vit")} == vit.ARCHITECTURES.keys()
