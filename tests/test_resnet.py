"""ResNets for large images: PyTorch's figures, published sizes, pooling, rematerialization, arithmetic."""

import functools

import flax.linen as nn
import golden_imagenet as golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import optimizations

from benchmarks.operations import multiply_adds
from configs import default
from saddle_jax.experiment.catalogue import ENTRIES
from saddle_jax.host import devices
from saddle_jax.models import resnet, resnet_cifar
from saddle_jax.models.networks import make_backbone, make_resnet
from saddle_jax.models.pooling import max_pool

PUBLISHED = {  # torchvision's: parameters with 1000 classes, 1e9 multiply-adds at 224
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnext50_32x4d": (25_028_904, 4.230),
}


def network_of(name: str, classes: int = golden.CLASSES, **fields):
    config = default.get_config().model
    config.update(name=name, **fields)
    return make_resnet(None, config, classes, None)


def shapes_of(network, size: int = 32):
    """Return those of the parameters and of the model's state."""
    return jax.eval_shape(lambda key: network.init(key, (size, size, 3)), jax.random.key(0))


@pytest.fixture(scope="module")
def store():
    with np.load(golden.FILE) as figures:
        return dict(figures)


# Of ResNet-50, test_training_mode_equals_pytorch has the forward pass.
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.nightly if n == "resnet50" else ()) for n in golden.FORWARD]
)
def test_forward_equals_pytorch(name, store, x64):
    network, rows = network_of(name), 2  # rows do not depend on each other
    images = golden.images_and_labels()[0][:rows]
    params, model_state = golden.variables(network, "linear")
    logits, _ = jax.jit(functools.partial(network.logits, train=False))(
        params, model_state, images, np.ones(rows, bool)
    )
    np.testing.assert_allclose(logits, store[f"{name}/logits"][:rows], rtol=1e-9, atol=1e-11)


def training_pass_of(head):
    """Return ResNet-50's loss in training mode, and its arguments; with the normed head it computes blocks again."""
    network = network_of("resnet50", head=head, remat=head == "normed")
    images, labels = golden.images_and_labels()
    scale = golden.SCALE if head == "normed" else 1.0

    def loss(params, model_state, images):
        mask = jnp.ones(golden.ROWS, bool)
        logits, updated = network.logits(params, model_state, images, mask, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(scale * logits, labels)
        return losses.mean(), (logits, updated)

    return loss, (*golden.variables(network, head), images)


def check_training_mode(head, store, loss, logits, model_state):
    np.testing.assert_allclose(logits, store[f"{head}/train_logits"], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(loss, store[f"{head}/loss"], rtol=1e-10)
    _, found = golden.our_digests(model_state, head)
    np.testing.assert_allclose(found, store[f"{head}/statistics"], rtol=1e-9)


@pytest.mark.slow
def test_training_mode_equals_pytorch(store, x64):
    """Logits, loss, and running statistics. test_forward_equals_pytorch covers what the linear head adds."""
    loss_fn, arguments = training_pass_of("normed")
    loss, (logits, model_state) = jax.jit(loss_fn)(*arguments)
    check_training_mode("normed", store, loss, logits, model_state)


# Gradients that are not JAX's own have their tests: of the rectifier in test_activation.py, of BatchNorm in
# test_kernels.py, of max-pooling and of blocks that are computed again below. test_sam.py has those of ResNet-32.
@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("head", golden.HEADS)
def test_training_pass_equals_pytorch(head, store, x64):
    loss_fn, arguments = training_pass_of(head)
    (loss, (logits, model_state)), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(*arguments)
    check_training_mode(head, store, loss, logits, model_state)
    names, found = golden.our_digests({"params": grads}, head)
    assert names == list(store[f"{head}/names"])
    lengths = store[f"{head}/gradients"][:, :1]
    np.testing.assert_allclose(found / lengths, store[f"{head}/gradients"] / lengths, rtol=1e-7, atol=1e-7)


@pytest.mark.slow
@pytest.mark.nightly
def test_batch_256_at_224_fits_a_device_of_16_gb():
    def what_is_kept(remat):
        """Return the GiB between the passes, and the gradient's function with its arguments."""
        network = network_of("resnet50", classes=1000, dtype="bfloat16", remat=remat)
        images = jax.ShapeDtypeStruct((256, 224, 224, 3), jnp.float32)

        def loss(params, model_state, images):
            logits, updated = network.logits(params, model_state, images, jnp.ones(256, bool), train=True)
            return jax.nn.logsumexp(logits, axis=1).mean(), updated

        def backward(params, *rest):
            return jax.vjp(lambda params: loss(params, *rest), params, has_aux=True)[1]

        arguments = *shapes_of(network), images
        kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(backward, *arguments)))
        return kept / 2**30, jax.jit(jax.grad(loss, has_aux=True)).lower(*arguments)

    kept, _ = what_is_kept(False)
    again, lowered = what_is_kept(True)
    assert again < 0.4 * kept  # the stem's output and the blocks' inputs
    # XLA for CPUs drops the barriers between the passes, others do not.
    compiled = lowered.compile(compiler_options={"xla_disable_hlo_passes": "cse_barrier_expander"})
    assert compiled.memory_analysis().temp_size_in_bytes < 10 * 2**30 < kept * 2**30


@pytest.mark.slow
def test_the_figures_are_those_of_pytorch_at_hand(store):
    pytest.importorskip("torch")
    found = golden.figures()
    assert found.keys() == store.keys()
    for key, figures in found.items():
        if key.endswith("names"):
            assert list(figures) == list(store[key])
        else:
            np.testing.assert_allclose(figures, store[key], rtol=1e-7, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", [name for name in resnet.ARCHITECTURES if "x" not in name])
def test_a_name_counts_the_layers(name):
    shape = resnet.ARCHITECTURES[name]
    layers = (3 if shape.bottleneck else 2) * sum(shape.blocks)
    assert layers + 2 == int(name.rpartition("resnet")[2])  # with the first convolution and the classifier


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.nightly if n in ("resnet101", "resnet152") else ()) for n in PUBLISHED],
)
def test_published_sizes(name):
    config = default.get_config().model
    config.name = name
    parameters, products = PUBLISHED[name]
    assert sum(x.size for x in jax.tree.leaves(shapes_of(network_of(name, classes=1000))[0])) == parameters
    assert multiply_adds(make_backbone(config, None), 1000, 224) / 1e9 == pytest.approx(products, abs=5e-4)


def test_names_are_what_checkpoints_are_mapped_to():
    params = shapes_of(network_of("resnext50_32x4d"))[0]
    assert params.keys() == {
        *("conv1", "bn1", "linear"),
        *(f"layer{stage + 1}_{block}" for stage, blocks in enumerate((3, 4, 6, 3)) for block in range(blocks)),
    }
    block = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}
    assert params["layer1_0"].keys() == params["layer2_0"].keys() == block | {"downsample_conv", "downsample_bn"}
    assert params["layer1_1"].keys() == block
    assert params["layer2_0"]["conv2"]["kernel"].shape == (3, 3, 8, 256)
    basic = shapes_of(network_of("resnet10"))[0]
    assert basic["layer1_0"].keys() == {"conv1", "bn1", "conv2", "bn2"}


def test_initialization_follows_torchvision():
    network = network_of("resnet10", classes=100)
    params, _ = devices.jit_once(lambda key: network.init(key, (8, 8, 3)))(jax.random.key(1))
    kernel = params["layer3_0"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 128, 256)
    assert np.std(kernel) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)  # fan out
    assert np.abs(kernel).max() > 4 * np.std(kernel)  # not truncated
    for leaf in ("kernel", "bias"):
        assert 0.9 * 512**-0.5 < np.abs(params["linear"][leaf]).max() <= 512**-0.5
    np.testing.assert_array_equal(params["layer1_0"]["bn2"]["scale"], 1)  # no residual branch starts at 0


NAMES = (*resnet.ARCHITECTURES, *resnet_cifar.ARCHITECTURES)
KINDS = ("resnet10", "resnet50", "cifar_resnet34", "resnext50_32x4d", "resnet8", "resnet20")  # others have more of them


def test_every_network_can_be_chosen():
    assert set(NAMES) <= ENTRIES["model.name"].keys()


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in KINDS else pytest.mark.nightly) for n in NAMES])
def test_neither_image_size_nor_rematerialization_changes_a_name(name):
    small, large = (
        shapes_of(network_of(name, width=0.1, remat=remat), size) for remat, size in ((False, 1), (True, 65))
    )
    assert small == large


def test_width_scales_every_filter():
    for width, filters, inner in ((0.25, 128, 64), (2.0, 1024, 512)):
        kernel = shapes_of(network_of("resnext50_32x4d", width=width))[0]["layer2_0"]["conv3"]["kernel"]
        assert kernel.shape == (1, 1, inner, filters)


def windows(x):
    """Yield ((row, column) of the output, [(row, column) of the input]) of 3x3 windows, stride 2, padding 1."""
    height, width = x.shape
    for row in range((height + 1) // 2):
        for column in range((width + 1) // 2):
            rows = range(max(0, 2 * row - 1), min(height, 2 * row + 2))
            columns = range(max(0, 2 * column - 1), min(width, 2 * column + 2))
            yield (row, column), [(r, c) for r in rows for c in columns]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 8), (8, 7)])
def test_max_pool_and_the_gradient_of_ties(size):
    draw = np.random.default_rng(0)
    x = np.maximum(draw.integers(-3, 3, size), 0).astype(np.float32)  # rectified: most windows have ties
    values, vjp = jax.vjp(jax.jit(lambda x: max_pool(x[None, :, :, None])[0, :, :, 0]), jnp.asarray(x))
    weights = draw.standard_normal(values.shape).astype(np.float32)
    expected, gradient = np.zeros(values.shape), np.zeros(size)
    for place, inside in windows(x):
        first = max(inside, key=lambda at: x[at])
        expected[place] = x[first]
        gradient[first] += weights[place]
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_allclose(vjp(weights)[0], gradient, atol=1e-6)


def test_max_pool_keeps_nan_and_lets_negative_numbers_through():
    x = -jnp.ones((1, 6, 6, 1)).at[0, 3, 3, 0].set(jnp.nan)
    pooled = max_pool(x)[0, :, :, 0]
    np.testing.assert_array_equal(np.isnan(pooled), [[False] * 3, [False, True, True], [False, True, True]])
    assert float(pooled[0, 0]) == -1


def small_pass(name: str, **model):
    """Return a training pass of a narrow network on six small images, the last one masked, and its arguments."""
    network = network_of(name, width=0.125, **model)
    mask = jnp.arange(6) < 5

    def training_pass(params, model_state, images):
        def loss(params):
            logits, updated = network.logits(params, model_state, images, mask, train=True)
            return jax.nn.logsumexp(logits[:5], axis=1).mean(), updated

        return jax.value_and_grad(loss, has_aux=True)(params)

    weights = jax.tree.map(lambda x: jnp.asarray(x, float), golden.variables(network, "linear"))
    images = jnp.asarray(golden.draw("small", (6, 16, 16, 3)), float)
    return training_pass, (*weights, images)


def test_no_gradient_is_a_select_and_scatter():
    def text(pool):
        gradient = jax.grad(lambda x: jnp.sum(jnp.square(pool(x))))
        return jax.jit(gradient).lower(jnp.ones((2, 8, 8, 4))).as_text()

    assert "select_and_scatter" in text(lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))
    assert "scatter" not in text(max_pool)
    training_pass, arguments = small_pass("resnet10")
    assert "select_and_scatter" not in jax.jit(training_pass).lower(*arguments).as_text()


@optimizations(few=True)
def test_rematerialization_changes_no_number(x64):
    found = []
    for remat in (False, True):
        training_pass, arguments = small_pass("resnet8", remat=remat)
        found.append(jax.jit(training_pass)(*arguments))
    (loss, model_state), _ = found[0]
    assert loss.dtype == np.float64
    moved, start = (state["batch_stats"]["layer1_0"]["bn1"]["mean"] for state in (model_state, arguments[1]))
    assert np.abs(moved - start).max() > 1e-3  # computed twice with remat, but moved once:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12), *found)


@pytest.mark.parametrize(("name", "blocks"), [("resnet8", 3), ("resnet10", 4)])
def test_rematerialization_takes_every_block(name, blocks):
    training_pass, arguments = small_pass(name, remat=True)
    assert str(jax.make_jaxpr(training_pass)(*arguments)).count("remat2[") == blocks


@optimizations(few=True)
def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    training_pass, arguments = small_pass("resnet10", dtype="bfloat16")
    shapes = jax.eval_shape(training_pass, *arguments)
    assert {x.dtype for x in jax.tree.leaves((shapes, arguments))} == {jnp.dtype("float32")}
    exact, rounded = (
        jax.jit(functools.partial(network_of("resnet10", width=0.125, dtype=dtype).logits, train=False))(
            *arguments, jnp.ones(6, bool)
        )[0]
        for dtype in ("float32", "bfloat16")
    )
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.05
