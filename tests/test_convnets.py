"""EfficientNet-Lite and ConvNeXt: timm's figures, publishers' names, kernels, sizes, stochastic depth."""

import functools

import flax.linen as nn
import golden_convnets as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_libraries
from conftest import ROOT  # noqa: F401 (its devices)
from flax import traverse_util
from test_kernels import needs_package

from saddle_jax.experiment import checks, schema
from saddle_jax.host import devices
from saddle_jax.models import convnext, depthwise, networks
from saddle_jax.models.base import from_flax
from saddle_jax.models.efficientnet_lite import Architecture, EfficientNetLite, Stage
from saddle_jax.weights import archive, names
from saddle_jax.weights.publishers import convnext as convnext_publishers
from saddle_jax.weights.publishers import efficientnet_lite as lite_publishers
from saddle_jax.weights.publishers import resnet as resnet_publishers

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

PARAMETERS = {  # of timm's networks with 1000 classes
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "convnext_tiny": 28_589_128,
    "convnext_base": 88_591_464,
}
SMALL_CONVNEXT = convnext.Architecture((1, 1, 2, 1), (4, 8, 16, 32))
SMALL_LITE = Architecture(stages=(Stage(1, 3, 1, 1, 16), Stage(2, 5, 2, 6, 24), Stage(1, 3, 2, 6, 40)))


def config_of(name, **fields):
    """Return the default config with this network and its own fields."""
    config = schema.default_config({"model.name": name})
    config.model.update(name=name, **fields)
    return config


def small(family, kernels="lax", **fields):
    """Return the network of timm's figures, with five classes."""
    model = config_of("efficientnet_lite0", kernels=kernels).model
    common = {"dtype": None, "remat": False, "conv": networks.make_conv(model)}
    if family == "convnext":
        backbone = convnext.ConvNeXt(SMALL_CONVNEXT, **{"width": 1.0, "drop_path": 0.0, **common, **fields})
    else:
        norm = networks.make_norm(model, None, epsilon=1e-3)
        backbone = EfficientNetLite(SMALL_LITE, **{"width": 0.25, "norm": norm, **common, **fields})
    return from_flax(backbone, networks.make_head(model, 5))


def shapes_of(network, size=32):
    return jax.eval_shape(lambda key: network.init(key, (size, size, 3)), jax.random.key(0))


@functools.cache
def figures():
    with np.load(golden.FILE) as file:
        return dict(file)


def tensors_of(family):
    """Return the weights of timm's figures, and a classifier's."""
    name, features = ("head.fc", 32) if family == "convnext" else ("classifier", 320)
    classifier = {f"{name}.weight": golden.value("head", (5, features)), f"{name}.bias": golden.value("bias", (5,))}
    return golden.tensors_of(figures()[f"{family}/names"], figures()[f"{family}/shapes"]) | classifier


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_features_equal_timms(family, x64):
    network = small(family)
    params, state = names.convert(tensors_of(family), *shapes_of(network))
    images = golden.images()
    features, _ = jax.jit(functools.partial(network.features, train=False))(params, state, images, np.ones(3, bool))
    np.testing.assert_allclose(features, figures()[f"{family}/features"], rtol=1e-9, atol=1e-11)


def test_the_figures_are_those_of_timm_at_hand():
    torch_libraries.library("timm")
    for key, found in golden.figures().items():
        expected = figures()[key]
        if key.endswith("features"):
            np.testing.assert_allclose(found, expected, rtol=1e-9)
        else:
            np.testing.assert_array_equal(found, expected)


LARGER = ("efficientnet_lite1", "efficientnet_lite2", "convnext_base")  # of the same blocks


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.nightly if n in LARGER else ()) for n in PARAMETERS]
)
def test_published_sizes(name):
    network = networks.make_network(config_of(name), 1000, None)
    params, _ = shapes_of(network)
    assert sum(x.size for x in jax.tree.leaves(params)) == PARAMETERS[name]
    assert shapes_of(networks.make_network(config_of(name, remat=True), 1000, None), size=33)[0] == params


@needs_package
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_training_and_curvature_are_those_of_float64(family):
    """By oneDNN's kernels, and whatever the padding among the images shows."""
    tensors, images, mask = tensors_of(family), golden.images(), np.array([True, False, True])

    def results(kernels, params, state, direction, images):
        network = small(family, kernels, remat=kernels == "onednn")

        def loss(params):
            logits, updated = network.logits(params, state, images, mask, train=True)
            return jnp.sum(jnp.sin(logits) ** 2 * mask[:, None]), updated

        return jax.jvp(jax.value_and_grad(loss, has_aux=True), (params,), (direction,))

    def found(kernels, dtype, images):
        params, state = names.convert(tensors, *shapes_of(small(family)))
        direction = jax.tree.map(lambda x: np.cos(np.arange(x.size)).reshape(x.shape).astype(dtype), params)
        return jax.jit(functools.partial(results, kernels))(params, state, direction, images.astype(dtype))

    other_padding = images.copy()
    other_padding[1] = 100
    with jax.enable_x64(True), depthwise.only_xla():
        right = jax.device_get(found("lax", np.float64, images))
    lengths = [np.linalg.norm(x) for x in jax.tree.leaves(right)]
    leaves = jax.tree_util.tree_leaves_with_path(found("onednn", np.float32, other_padding))
    for (path, a), b, length in zip(leaves, jax.tree.leaves(right), lengths, strict=True):
        error = np.linalg.norm(np.asarray(a, np.float64) - b)
        assert error < 1e-3 * (length + 1e-3 * max(lengths)), jax.tree_util.keystr(path)


@pytest.mark.parametrize(("strides", "padding"), [((1, 1), ((1, 1), (1, 1))), ((2, 1), ((0, 1), (4, 0)))])
def test_depthwise_convolutions_are_those_of_xla(strides, padding, x64):
    """Values, gradients, Hessian-vector products, and two kernels at once; compiled for CPUs without a convolution."""
    images, kernel, *tangents = (golden.draw(f"{n}", shape) for n, shape in enumerate([(2, 6, 7, 4), (3, 5, 1, 4)] * 2))

    def by_xla(images, kernel):
        fields = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 4}
        return jax.lax.conv_general_dilated(images, kernel, strides, padding, **fields)

    def results(convolve):
        def gradient(images, kernel):
            return jax.grad(lambda *given: jnp.sum(jnp.sin(convolve(*given))), argnums=(0, 1))(images, kernel)

        both = jnp.stack([kernel, kernel**2])
        mapped = jax.vmap(gradient, in_axes=(None, 3), out_axes=2)(images, jnp.moveaxis(both, 0, 3))
        return convolve(images, kernel), *jax.jvp(gradient, (images, kernel), tuple(tangents)), mapped

    how = {"strides": strides, "padding": padding}
    ours = jax.jit(lambda: results(functools.partial(depthwise.convolve, **how)))
    right = jax.jit(lambda: results(by_xla))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours(), right)
    assert "stablehlo.convolution" not in ours.lower().as_text()
    with depthwise.only_xla():
        assert "depthwise" not in str(jax.make_jaxpr(functools.partial(depthwise.convolve, **how))(images, kernel))
    assert "stablehlo.convolution" in jax.export.export(ours, platforms=["cuda"])().mlir_module()


def test_bfloat16_and_the_normed_head():
    config = config_of("efficientnet_lite0", width=0.25, dtype="bfloat16", head="normed")
    network = networks.make_network(config, 5, None)
    params, state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes_of(network))
    assert {x.dtype for x in jax.tree.leaves((params, state))} == {jnp.dtype("float32")}
    images, mask = jnp.ones((2, 32, 32, 3)), jnp.ones(2, bool)
    logits, _ = jax.eval_shape(lambda: network.logits(params, state, images, mask, train=False))
    assert logits.shape == (2, 5) and logits.dtype == jnp.float32
    assert params["linear"].keys() == {"kernel"}


def test_initial_weights_are_timms():
    init = devices.jit_once(lambda key: small("efficientnet_lite", width=1.0).init(key, (32, 32, 3)))
    kernels = traverse_util.flatten_dict(init(jax.random.key(0))[0])
    for name, shape, fan in (("conv_dw", (5, 5, 1, 144), 25), ("conv_pwl", (1, 1, 144, 24), 24)):
        kernel = kernels["blocks_1_1", name, "kernel"]
        assert kernel.shape == shape
        assert np.asarray(kernel).std() == pytest.approx((2 / fan) ** 0.5, rel=0.05)


LITE_NAMES = {
    "_conv_stem.weight": "conv_stem.weight",
    "_bn0.running_var": "bn1.running_var",
    "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
    "_blocks.0._bn1.bias": "blocks.0.0.bn1.bias",
    "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
    "_blocks.0._bn2.weight": "blocks.0.0.bn2.weight",
    "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
    "_blocks.1._bn0.weight": "blocks.1.0.bn1.weight",
    "_blocks.1._project_conv.weight": "blocks.1.0.conv_pwl.weight",
    "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
    "_blocks.2._project_conv.weight": "blocks.1.1.conv_pwl.weight",
    "_blocks.2._bn2.weight": "blocks.1.1.bn3.weight",
    "_conv_head.weight": "conv_head.weight",
    "_bn1.weight": "bn2.weight",
    "_fc.bias": "classifier.bias",
}


def test_names_of_efficientnet_lite_pytorch():
    (publisher,) = lite_publishers.PUBLISHERS
    filters = {"_blocks.0._project_conv.weight": 16}
    theirs = {name: np.full(filters.get(name, 24), n) for n, name in enumerate(LITE_NAMES)}
    assert publisher.recognizes(theirs)
    assert not publisher.recognizes(LITE_NAMES.values())
    found = publisher.translate(theirs)
    assert {name: tensor[0] for name, tensor in found.items()} == {
        name: n for n, name in enumerate(LITE_NAMES.values())
    }


CONVNEXT_NAMES = {  # Facebook's, Hugging Face's, and torchvision's names, and timm's
    "stem.0.weight": ("downsample_layers.0.0.weight", "embeddings.patch_embeddings.weight", "features.0.0.weight"),
    "stem.1.bias": ("downsample_layers.0.1.bias", "embeddings.layernorm.bias", "features.0.1.bias"),
    "stages.0.blocks.0.conv_dw.weight": (
        *("stages.0.0.dwconv.weight", "encoder.stages.0.layers.0.dwconv.weight", "features.1.0.block.0.weight"),
    ),
    "stages.0.blocks.0.gamma": (
        *("stages.0.0.gamma", "encoder.stages.0.layers.0.layer_scale_parameter", "features.1.0.layer_scale"),
    ),
    "stages.1.downsample.1.bias": (
        *("downsample_layers.1.1.bias", "encoder.stages.1.downsampling_layer.1.bias", "features.2.1.bias"),
    ),
    "stages.2.blocks.8.norm.bias": (
        *("stages.2.8.norm.bias", "encoder.stages.2.layers.8.layernorm.bias", "features.5.8.block.2.bias"),
    ),
    "stages.3.blocks.2.mlp.fc1.weight": (
        *("stages.3.2.pwconv1.weight", "encoder.stages.3.layers.2.pwconv1.weight", "features.7.2.block.3.weight"),
    ),
    "stages.3.blocks.2.mlp.fc2.bias": (
        *("stages.3.2.pwconv2.bias", "encoder.stages.3.layers.2.pwconv2.bias", "features.7.2.block.5.bias"),
    ),
    "head.norm.weight": ("norm.weight", "layernorm.weight", "classifier.0.weight"),
    "head.fc.bias": ("head.bias", "classifier.bias", "classifier.2.bias"),
}


@pytest.mark.parametrize("number", range(3))
def test_names_of_convnexts_publishers(number):
    publisher = convnext_publishers.PUBLISHERS[number]
    theirs = {names[number]: np.array([[[float(n)]]]) for n, names in enumerate(CONVNEXT_NAMES.values())}
    if publisher.name == "Hugging Face":  # also of the network with a classifier
        theirs = {name if name.startswith("classifier") else f"convnext.{name}": x for name, x in theirs.items()}
    assert [one.recognizes(theirs) for one in convnext_publishers.PUBLISHERS] == [n == number for n in range(3)]
    found = publisher.translate(theirs)
    assert {name: x.item() for name, x in found.items()} == {name: n for n, name in enumerate(CONVNEXT_NAMES)}
    assert found["stages.0.blocks.0.gamma"].ndim == (1 if publisher.name == "torchvision" else 3)
    assert not publisher.recognizes(CONVNEXT_NAMES)


RESNET_NAMES = {
    "resnet.embedder.embedder.convolution.weight": "conv1.weight",
    "resnet.embedder.embedder.normalization.running_mean": "bn1.running_mean",
    "resnet.encoder.stages.0.layers.1.layer.0.convolution.weight": "layer1.1.conv1.weight",
    "resnet.encoder.stages.3.layers.0.layer.2.normalization.bias": "layer4.0.bn3.bias",
    "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": "layer2.0.downsample.0.weight",
    "resnet.encoder.stages.1.layers.0.shortcut.normalization.weight": "layer2.0.downsample.1.weight",
    "classifier.1.weight": "fc.weight",
}


def test_names_of_hugging_faces_resnets():
    (publisher,) = resnet_publishers.PUBLISHERS
    for theirs in (RESNET_NAMES, {name.removeprefix("resnet."): ours for name, ours in RESNET_NAMES.items()}):
        tensors = {name: np.array(n) for n, name in enumerate(theirs)}
        assert publisher.recognizes(tensors)
        assert publisher.translate(tensors) == {name: n for n, name in enumerate(theirs.values())}
    assert not publisher.recognizes(RESNET_NAMES.values())


def test_stochastic_depth_takes_whole_images():
    block = convnext.Block(0.25, None, nn.Conv)
    image = golden.draw("block", (1, 8, 8, 4)).astype(np.float32)
    images = np.broadcast_to(image, (256, 8, 8, 4))
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), image, False))
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), shapes)
    whole = block.apply(variables, image, False) - image
    added = np.asarray(block.apply(variables, images, True, rngs={"dropout": jax.random.key(1)}) - images)
    skips = (added == 0).all((1, 2, 3))
    assert 0.15 < skips.mean() < 0.35
    np.testing.assert_allclose(added[~skips], np.broadcast_to(whole / 0.75, added[~skips].shape), rtol=1e-4, atol=1e-5)
    rates = convnext.ConvNeXt(SMALL_CONVNEXT, 1.0, 0.4, None, False, nn.Conv)._rates()
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])


def test_fields_that_do_not_go_with_convnext_are_told():
    config = config_of("convnext_tiny", batch_norm="synchronized")
    config.data.image_size = 16
    config.convnext_tiny.drop_path = 1.0
    told = "\n".join(checks.problems_of(config))
    for part in ("convnext_tiny.drop_path: found 1.0", "data.image_size: found 16, expected 32", "no BatchNorm"):
        assert part in told
    with pytest.raises(ValueError, match="found images of 16 x 16 pixels, expected 32 or more"):
        shapes_of(small("convnext"), size=16)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2", "convnext_tiny", "resnet18", "resnet34"])
def test_networks_of_full_size_equal_timms(name, tmp_path):
    timm, torch = torch_libraries.library("timm"), torch_libraries.library("torch")
    original = timm.create_model(f"tf_{name}" if "lite" in name else name).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in original.state_dict().values():
            if tensor.ndim == 1:
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=draw))
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    tensors = archive.read(tmp_path / "weights.pth").tensors
    images = golden.images()
    with torch.no_grad():
        expected = original.double()(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    for dtype, tolerance in ((np.float32, 1e-4), (np.float64, 1e-9)):
        with jax.enable_x64(dtype is np.float64):
            network = networks.make_network(config_of(name), 1000, None)
            params, state = names.convert(tensors, *shapes_of(network))
            function = jax.jit(functools.partial(network.logits, train=False))
            logits, _ = function(params, state, images.astype(dtype), np.ones(3, bool))
        assert np.abs(np.asarray(logits) - expected).max() < tolerance * np.abs(expected).max()
