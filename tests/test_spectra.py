"""Class-wise curvature: equal to the reference's products and to jax.hessian; whatever the chunks and the devices."""

import copy
import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import optimizations
from golden_resnet import batch, config_of, leaf, load, method_of, our_name, our_value, variables
from jax.flatten_util import ravel_pytree

from configs import digits_lt
from saddle_jax.data import sources
from saddle_jax.data.feeds import evaluation
from saddle_jax.data.images import Batch
from saddle_jax.errors import NonFiniteError, OperatorError
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.losses import cross_entropy, make_loss
from saddle_jax.methods.plain import make as make_plain
from saddle_jax.spectra import classwise, escape, lanczos, landscape
from saddle_jax.spectra.checks import check_operator
from saddle_jax.spectra.density import ritz
from saddle_jax.spectra.hvp import FunctionLoss, MeanLoss, flat_point, make_pieces

pytestmark = pytest.mark.usefixtures("compile_file_quickly")


def tree_of_vector(store, head, like):
    """Return the reference's hvp/v as a tree of ours."""
    tree = jax.tree.map(np.zeros_like, like)
    for key in store:
        if key.startswith("hvp/v/"):
            name = key.removeprefix("hvp/v/")
            leaf(tree, name)[...] = our_value(name, store[key], head == "normed")
    return tree


# test_a_small_network_against_jax_hessian_class_by_class has products that are not linearized.
@pytest.mark.parametrize(
    ("head", "linearized"), [pytest.param("linear", False, marks=pytest.mark.nightly), ("normed", True)]
)
@optimizations(few=False)  # of ResNet-32 in float64: slow code takes longer than compiling
def test_products_are_the_references(x64, head, linearized):
    store = load(head)
    method = method_of(config_of(head), store, devices.AXIS)
    start = variables(store, head)
    images = np.concatenate([batch(store, i).images for i in range(4)])
    chunks = list(evaluation.evaluation_batches(images[:, :, :, :], np.full(32, 9), 16, 8))
    chunks = [c._replace(images=np.where(c.mask[:, None, None, None], images[c.ids], 0)) for c in chunks]  # not uint8
    point, unravel = flat_point(start.params, start.model_state, np.ones(10), "float64")
    mean_loss = MeanLoss(make_pieces(method, cross_entropy, unravel, train_mode=False), point, chunks)
    if linearized:
        mean_loss.linearize()
    vector_P, _ = ravel_pytree(tree_of_vector(store, head, jax.device_get(start.params)))
    product_P = mean_loss(jnp.asarray(vector_P)[None])[0]
    assert float(vector_P @ product_P) == pytest.approx(float(store["hvp/vHv"]), rel=1e-10)
    assert float(jnp.linalg.norm(product_P)) == pytest.approx(float(store["hvp/Hv_norm"]), rel=1e-10)
    assert float(jnp.linalg.norm(mean_loss.gradient())) == pytest.approx(float(store["hvp/grad_norm"]), rel=1e-10)
    product = jax.device_get(unravel(product_P))
    names = [key for key in store if key.startswith("hvp/Hv/")]
    assert len(names) == 6
    for key in names:
        name = key.removeprefix("hvp/Hv/")
        assert our_name(name)[0] == "params"
        np.testing.assert_allclose(
            leaf(product, name), our_value(name, store[key], head == "normed"), rtol=1e-8, atol=1e-10
        )


class Small:
    """A network of 1,000 parameters on a few digits of three classes."""

    def __init__(self, loss="ce", head="linear", train_mode=False, dtype="float64", batch_norm="per_device"):
        config = digits_lt.get_config(f"{'ldam_drw' if loss == 'ldam' else 'ce'},smoke")
        config.model.width, config.model.head = 0.125, head
        config.model.batch_norm = batch_norm
        config.loss.name = loss
        images = sources.load(config).train
        chosen = np.concatenate([np.flatnonzero(images.labels == c)[:n] for c, n in ((0, 11), (1, 6), (2, 1))])
        self.images, self.labels = images.images[chosen], images.labels[chosen]
        stats = ClassStats(np.array([11, 6, 1]), ("a", "b", "c"))
        self.loss_fn = make_loss(config, stats, 30.0 if head == "normed" else 1.0)
        self.dtype, self.train_mode = dtype, train_mode
        self.method = make_plain(config, stats, self.images.shape[1:], devices.AXIS)
        start = devices.jit_once(self.method.init)(jax.random.key(0))
        # Running statistics that are not those of an untrained network, biases that are not 0.
        self.params = jax.tree.map(
            lambda x: np.asarray(x) + 0.1 * np.arange(x.size).reshape(x.shape) / x.size, start.params
        )
        self.stats = jax.tree.map(lambda x: np.asarray(x) + 0.2, start.model_state)
        self.point, self.unravel = flat_point(self.params, self.stats, np.array([1.0, 2.0, 3.0]), dtype)
        self.pieces = make_pieces(self.method, self.loss_fn, self.unravel, train_mode=train_mode)

    def mean_loss(self, classes=(0, 1, 2), chunk=8, width=1, **changes):
        of = np.flatnonzero(np.isin(self.labels, classes))
        chunks = list(evaluation.evaluation_batches(self.images[of], self.labels[of], chunk, 8))
        return MeanLoss(self.pieces, self.point._replace(**changes), chunks, width=width)

    def batch(self, classes):
        of = np.flatnonzero(np.isin(self.labels, classes))
        labels = self.labels[of].astype(np.int32)
        return Batch(self.images[of], labels, np.ones(len(of), bool), labels, labels)

    def hessian(self, classes=(0, 1, 2), weights=(1.0, 2.0, 3.0)):
        everything, weights = self.batch(classes), np.array(weights)
        labels = everything.labels

        def loss(params_P):
            logits = self.method.predict(self.unravel(params_P), jax.device_get(self.stats), everything)
            return jnp.sum(self.loss_fn(logits, labels) * weights[labels]) / weights[labels].sum()

        return hessian_of(loss, devices.local(self.point.params_P))


@optimizations(few=False)  # as many products as there are parameters
def hessian_of(loss, params_P):
    return jax.jit(jax.hessian(loss))(params_P)


@functools.cache
def small(loss="ce", head="linear"):
    """Return a network that several tests measure in float64, so that its products are compiled once."""
    return Small(loss, head)


@pytest.fixture(autouse=True, scope="module")
def forget_small():
    yield
    small.cache_clear()


def vectors(number, size, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(7), (number, size), dtype)


@pytest.mark.parametrize(
    ("loss", "head"),
    [
        pytest.param("ce", "linear", marks=pytest.mark.nightly),
        ("ldam", "normed"),
        pytest.param("vs", "linear", marks=pytest.mark.nightly),
        pytest.param("focal", "normed", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize(
    "classes",
    [  # of 11, 6, and 1 images
        *(pytest.param((label,), marks=pytest.mark.nightly) for label in (0, 1)),
        *((2,), (0, 1, 2)),
    ],
    ids=str,
)
def test_a_small_network_against_jax_hessian_class_by_class(x64, loss, head, classes):
    one = small(loss, head)
    h_PP = np.asarray(one.hessian(classes))
    v_SP = vectors(2, len(h_PP))
    found = one.mean_loss(classes)(v_SP)
    np.testing.assert_allclose(found, v_SP @ h_PP, rtol=1e-9, atol=1e-11 * np.abs(h_PP).max())


def test_training_mode_over_all_devices_against_jax_hessian(x64):
    """Synchronized over the devices, one chunk is one batch: the derivative goes through its statistics."""
    together = Small(train_mode=True, batch_norm="synchronized")
    alone = Small(train_mode=True)
    v_SP = vectors(2, together.point.params_P.size)
    everything = alone.batch((0, 1, 2))
    weights = np.array([1.0, 2.0, 3.0])[everything.labels]

    def loss(params_P):
        logits = alone.method.predict(alone.unravel(params_P), jax.device_get(alone.stats), everything, train=True)
        return jnp.sum(alone.loss_fn(logits, everything.labels) * weights) / weights.sum()

    expected = v_SP @ np.asarray(hessian_of(loss, together.mean_loss().params_P))
    np.testing.assert_allclose(together.mean_loss(chunk=24)(v_SP), expected, rtol=1e-8, atol=1e-10)


def test_a_whole_spectrum_against_jax_hessian(x64):
    mean_loss = small().mean_loss((1,), width=3)
    mean_loss.linearize()
    eigenvalues = np.linalg.eigvalsh(np.asarray(small().hessian((1,))))
    steps = 0

    def count(vectors):
        nonlocal steps
        steps += vectors

    spectrum = classwise.measure(
        mean_loss, steps=80, probes=7, seed=0, basis="device", variance=1e-5, what="it", on_step=count
    )
    assert spectrum.largest.value == pytest.approx(eigenvalues[-1], rel=1e-10)
    assert spectrum.smallest.value == pytest.approx(eigenvalues[0], rel=1e-8)
    for end in (spectrum.largest, spectrum.smallest):
        assert np.abs(eigenvalues - end.value).min() <= end.error
        assert end.residual < 1e-6
        v_P = end.vector_P
        np.testing.assert_allclose(mean_loss(v_P[None])[0], end.value * v_P, atol=2e-6)
    assert abs(spectrum.trace - eigenvalues.sum()) < 4 * spectrum.trace_error
    assert spectrum.ratio == pytest.approx(abs(eigenvalues[0] / eigenvalues[-1]), rel=1e-8)
    assert spectrum.check.repeat == 0
    assert steps == 7 * 80
    assert mean_loss.products == 7 * 80 + 4 + 2 + 2


@pytest.mark.parametrize("basis", [pytest.param("host", marks=pytest.mark.nightly), "none"])
def test_where_the_basis_lies_changes_no_extreme(x64, basis):
    arguments = {"steps": 60, "probes": 3, "seed": 0, "variance": 1e-5, "what": "it"}
    expected = classwise.measure(small().mean_loss((0,), width=2), basis="device", **arguments)
    found = classwise.measure(small().mean_loss((0,), width=2), basis=basis, **arguments)
    for name in ("largest", "smallest"):
        assert getattr(found, name).value == pytest.approx(getattr(expected, name).value, rel=1e-9)
        along = float(jnp.vdot(getattr(found, name).vector_P, getattr(expected, name).vector_P))
        assert abs(along) == pytest.approx(1, abs=1e-6)
    assert found.trace == pytest.approx(expected.trace, rel=1e-12)


def test_classes_add_up_to_the_whole(x64):
    """Σ_c (n_c / N) H_c v = H v, and likewise with class weights."""
    one = small()
    v_SP = vectors(2, one.point.params_P.size)
    for weights_C in ((1.0, 1.0, 1.0), (1.0, 2.0, 3.0)):
        changes = {"class_weights_C": devices.replicate(jnp.array(weights_C))}
        parts = [(one.mean_loss((c,), **changes), n * weights_C[c]) for c, n in enumerate((11, 6, 1))]
        total = sum(weight for _, weight in parts)
        summed = sum(weight / total * part(v_SP) for part, weight in parts)
        np.testing.assert_allclose(summed, one.mean_loss(**changes)(v_SP), rtol=1e-11, atol=1e-13)


def test_chunks_padding_and_vectors_at_once_change_nothing(x64):
    one = small()
    v_SP = vectors(5, one.point.params_P.size)
    expected = one.mean_loss(chunk=24)
    for chunk, width, linearized in ((8, 1, False), (16, 2, True), (40, 5, False), (8, 3, True), (24, 4, True)):
        mean_loss = one.mean_loss(chunk=chunk, width=width)
        if linearized:
            mean_loss.linearize()
        scale = float(jnp.abs(expected(v_SP)).max())
        np.testing.assert_allclose(mean_loss(v_SP), expected(v_SP), rtol=1e-10, atol=1e-12 * scale)
        assert mean_loss.loss() == pytest.approx(expected.loss(), rel=1e-12)
        np.testing.assert_allclose(mean_loss.gradient(), expected.gradient(), rtol=1e-9, atol=1e-13)
        assert mean_loss.images == 18


def test_all_class_sizes_share_one_compilation():
    one = Small(dtype="float32")
    v_SP = vectors(1, one.point.params_P.size, jnp.float32)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    try:
        for linearized in (False, True):
            for number, classes in enumerate(((0,), (1,), (2,), (0, 1), (0, 1, 2))):
                mean_loss = one.mean_loss(classes)
                if linearized:
                    mean_loss.linearize()
                mean_loss(v_SP), mean_loss.loss(), mean_loss.gradient()
                if number == 0:
                    assert compiled
                    compiled.clear()
                assert not compiled, classes
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.mark.nightly
def test_batch_norm_in_training_mode_is_another_fixed_symmetric_operator(x64):
    for batch_norm in ("per_device", "synchronized"):
        running, own = Small(), Small(train_mode=True, batch_norm=batch_norm)
        v_SP = classwise.signs(0, (0, 1), own.point.params_P.size, jnp.float64)
        check = check_operator(own.mean_loss(chunk=24, width=2), v_SP, "it")
        assert check.repeat == 0
        assert check.asymmetry < 1e-12
        difference = own.mean_loss(chunk=24)(v_SP) - running.mean_loss(chunk=24)(v_SP)
        assert float(jnp.abs(difference).max()) > 1e-3


def extremes_of(mean_loss):
    starts_SP = classwise.signs(0, [0], mean_loss.params_P.size, mean_loss.params_P.dtype)
    tridiagonal, store = lanczos.lanczos(mean_loss, starts_SP, 80)
    _, coefficients = ritz(tridiagonal, 0)
    ends = [store.combine(np.pad(c, (0, 80 - len(c)))[None], tridiagonal)[0] for c in coefficients.T[[0, -1]]]
    return classwise.extremes(mean_loss, ends)


def test_float32_products_and_eigenvalues_are_near_float64():
    single = Small(dtype="float32")
    v_SP = vectors(1, single.point.params_P.size, jnp.float32)
    with devices.exact_arithmetic("float32"):
        found = single.mean_loss()(v_SP)
        ends = extremes_of(single.mean_loss((2,)))  # one image
    with devices.exact_arithmetic("float64"):
        double = Small()  # it starts from other random weights: take the first's
        double.point, _ = flat_point(single.params, single.stats, np.array([1.0, 2.0, 3.0]), "float64")
        expected = np.asarray(double.mean_loss()(jnp.asarray(v_SP, jnp.float64)))
        true_ends = extremes_of(double.mean_loss((2,)))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    largest = max(abs(end.value) for end in ends)
    for end, true in zip(ends, true_ends, strict=True):
        assert true.error < 1e-9
        assert abs(end.value - true.value) <= end.error < 1e-5 * largest
        assert end.error >= end.residual + 2**-23 * largest  # the residual alone does not see the product's rounding


def test_an_operator_that_is_not_fixed_or_not_symmetric_is_refused(x64):
    u_v = classwise.signs(0, (0, 1), 50, jnp.float64)
    h_PP = jnp.asarray(np.random.default_rng(0).normal(size=(50, 50)))
    calls = []

    def noisy(v_SP):
        calls.append(0)
        return v_SP @ (h_PP + h_PP.T) + 1e-12 * len(calls)

    with pytest.raises(OperatorError, match="random augmentation"):
        check_operator(noisy, u_v, "it")
    with pytest.raises(OperatorError, match="not symmetric. Likely causes"):
        check_operator(lambda v_SP: v_SP @ h_PP, u_v, "it")
    with pytest.raises(NonFiniteError):
        check_operator(lambda v_SP: v_SP * jnp.inf, u_v, "it")
    assert check_operator(lambda v_SP: v_SP @ (h_PP + h_PP.T), u_v, "it").asymmetry < 1e-14
    assert check_operator(jnp.zeros_like, u_v, "it") == (0, 0)


def test_weights_that_have_diverged_are_told(x64):
    broken = copy.copy(small())
    nan_P = jnp.full(broken.point.params_P.size, jnp.nan)
    broken.point = broken.point._replace(params_P=devices.replicate(nan_P))
    with pytest.raises(NonFiniteError, match="class 1: the loss is nan.*have diverged"):
        classwise.measure(broken.mean_loss(), steps=3, probes=1, seed=0, basis="device", variance=1e-5, what="class 1")


@pytest.mark.parametrize("basis", ["device", "host"])
def test_one_basis_is_held_at_a_time(basis):
    kind = {"device": lanczos._OnDevice, "host": lanczos._OnHost}[basis]
    most = 0

    def count(_):
        nonlocal most
        most = max(most, sum(type(thing) is kind for thing in gc.get_objects()))

    loss = FunctionLoss(lambda w: jnp.sum(jnp.sin(w) * w), jnp.linspace(0, 1, 50))
    classwise.measure(loss, steps=5, probes=3, basis=basis, on_step=count)
    assert most == 1


def test_any_function_of_a_tree_can_be_measured(x64):
    x, y = jax.random.normal(jax.random.key(0), (2, 20))

    def loss(params):
        return jnp.mean((params["b"] + jnp.tanh(x[:, None] @ params["w"]) @ params["v"] - y) ** 2)

    params = {"w": jnp.ones((1, 4)) * jnp.arange(4), "v": jnp.linspace(-1, 1, 4), "b": jnp.array(0.3)}
    flat, unravel = ravel_pytree(params)
    eigenvalues = np.linalg.eigvalsh(jax.hessian(lambda w: loss(unravel(w)))(flat))
    spectrum = classwise.measure(FunctionLoss(loss, params, width=4), probes=6)
    assert spectrum.largest.value == pytest.approx(eigenvalues[-1], rel=1e-10)
    assert spectrum.smallest.value == pytest.approx(eigenvalues[0], rel=1e-9)
    assert spectrum.loss == pytest.approx(float(loss(params)))
    assert abs(spectrum.trace - eigenvalues.sum()) < 4 * spectrum.trace_error


def quadratic(h_PP, b_P, w_P):
    return FunctionLoss(lambda w: w @ h_PP @ w / 2 + b_P @ w, w_P)


@pytest.mark.parametrize(("rho", "grows"), [(0.05, False), (0.5, False), (50.0, True)])
def test_on_a_quadratic_loss_the_theorem_holds_exactly(x64, rho, grows):
    """SAM multiplies ⟨g,v⟩ by 1 + ρλ/|g|: for λ < 0 that shrinks it until ρ|λ|/|g| exceeds 2."""
    values_P = np.array([-2.0, -0.5, 0.1, 1, 3, 10])
    random_PP, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    h_PP, w_P = jnp.asarray((random_PP * values_P) @ random_PP.T), jnp.ones(6)

    def minibatch(number):
        return quadratic(h_PP, jnp.asarray(np.random.default_rng(number).normal(size=6)), w_P)

    along = escape.measure_escape(
        quadratic(h_PP, jnp.zeros(6), w_P), minibatch, jnp.asarray(random_PP[:, 0]), -2.0,
        rho=rho, batches=20, radius=1.5,
    )  # fmt: skip
    found = along.summary(-2.0)
    norms = [np.linalg.norm(minibatch(number).gradient()) for number in range(20)]
    np.testing.assert_allclose(along.norms_M, norms, rtol=1e-12)
    np.testing.assert_allclose(along.sam_along_M, (1 - 2 * rho / along.norms_M) * along.along_M, rtol=1e-9)
    assert found["ratio"] == pytest.approx(found["ratio_predicted"], rel=1e-9)
    assert (found["ratio"] > 1) == grows
    assert found["batches_predicted_to_grow"] == np.mean(2 * rho / along.norms_M > 2) == grows
    assert found["rho_effective"] == pytest.approx(np.mean(rho / along.norms_M))
    factor = 1 - 2 * rho / np.linalg.norm(h_PP @ w_P)
    assert found["drift_sam"] == pytest.approx(factor * found["drift"], rel=1e-9)
    np.testing.assert_allclose(along.losses_T, along.quadratic_T, rtol=1e-12)
    assert (along.places_T[0], along.places_T[20], along.places_T[40]) == (-1.5, 0, 1.5)


def test_a_gradient_of_zero_predicts_nothing_and_breaks_nothing(x64):
    flat = quadratic(jnp.zeros((3, 3)), jnp.zeros(3), jnp.ones(3))
    along = escape.measure_escape(flat, lambda _: flat, jnp.ones(3) / 3**0.5, -1.0, rho=0.1, batches=2, radius=1.0)
    found = along.summary(-1.0)
    assert np.isnan(found["ratio"])
    assert found["rho_effective"] == found["drift_sam"] == 0


def test_a_landscape_of_a_quadratic_by_hand(x64):
    """L = Σ λ w² / 2 + 1 at w = (1, 2, 3): the plane, and where two other points lie beside it."""
    values, w = jnp.array([-2.0, 0.5, 5.0]), jnp.array([1.0, 2.0, 3.0])
    loss = FunctionLoss(lambda x: values @ x**2 / 2 + 1, w)
    first, _, second = jnp.eye(3)
    others = [w, w + jnp.array([0.3, 0.4, -0.2])]
    stops = {"a": [landscape.Stop(n, x, loss.loss(x)) for n, x in enumerate(others)], "none": []}
    ends = classwise.Extreme(-2.0, 0, 0, 2 * first), classwise.Extreme(5.0, 0, 0, second + 1e-3 * first)
    found = landscape.measure_landscape(loss, *ends, stops, radius=0.5, points=5)
    np.testing.assert_allclose(found.a_T, 0.5 * np.linspace(-1, 1, 5))  # the radius
    np.testing.assert_allclose(found.b_T, 0.5 * 0.4**0.5 * np.linspace(-1, 1, 5))  # times the root of 2 / 5
    farther = landscape.measure_landscape(loss, *ends, stops, radius=0.1, points=5)
    np.testing.assert_allclose([farther.a_T[-1], farther.b_T[-1]], [1.25 * 0.3, 1.25 * 0.2])  # the end point
    a, b = np.meshgrid(1 + found.a_T, 3 + found.b_T)
    np.testing.assert_allclose(found.losses_TT, -(a**2) + 0.25 * 4 + 2.5 * b**2 + 1)
    path = found.paths["a"]
    np.testing.assert_allclose(path.places_K2, [[0, 0], [0.3, -0.2]], atol=1e-12)
    np.testing.assert_allclose(path.distances_K, [0, 0.29**0.5])
    np.testing.assert_allclose(path.shares_K, [np.nan, (0.13 / 0.29) ** 0.5])
    np.testing.assert_allclose(found.arrays()["path_a"][1, [0, 5]], [1, loss.loss(others[1])])
    assert found.arrays()["path_none"].shape == (0, 6)
