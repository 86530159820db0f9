"""Links of an optax chain: closed forms on quadratics, limits to SGD and SAM, missing groups, cost, devices, state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratics import SIZE, Batch, flat, start

from saddle_jax.host import devices
from saddle_jax.optim.cc_sam import cc_sam, class_gradients
from saddle_jax.optim.chain import sum_over_devices
from saddle_jax.optim.cnc_pgd import cnc_pgd
from saddle_jax.optim.focal_sam import focal_sam
from saddle_jax.optim.imbsam import imbsam
from saddle_jax.optim.le_sam import le_sam
from saddle_jax.optim.link import FORWARD, Step, find_link_state, make_link, shared, with_key
from saddle_jax.optim.lpf_sgd import lpf_sgd
from saddle_jax.optim.noise import filter_noise, uniform_in_ball
from saddle_jax.optim.pgd import pgd
from saddle_jax.optim.sam import sam
from saddle_jax.optim.sse_sam import sse_sam

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

TAIL = np.array([False, False, True])
NONE, ALL = np.zeros(3, bool), np.ones(3, bool)
PRIORS = np.array([0.6, 0.3, 0.1])
COUNTS = np.array([600, 300, 1])


def in_linear(params):
    """Return which parameters are the classifier's."""
    return {name: jax.tree.map(lambda _, name=name: name == "linear", tree) for name, tree in params.items()}


LINKS = {
    "sam": lambda **aux: sam(0.3, **aux),
    "asam": lambda **aux: sam(0.3, adaptive=True, **aux),
    "pgd": lambda **_: pgd(0.3),
    "cnc_pgd": lambda **aux: cnc_pgd(5.0, 0.01, **aux),
    "lpf_sgd": lambda **aux: lpf_sgd(0.1, 3, **aux),
    "imbsam": lambda **aux: imbsam(0.3, TAIL, **aux),
    "sse_sam": lambda **aux: sse_sam(0.2, 0.4, 3, TAIL, **aux),
    "focal_sam": lambda **aux: focal_sam(0.3, 2.0, 0.7, PRIORS, **aux),
    "le_sam": lambda **aux: le_sam(0.5, 0.2, **aux),
    "cc_sam": lambda **aux: cc_sam(0.1, COUNTS, in_linear, flat_ratio=0.5, **aux),
}
every_link = pytest.mark.parametrize("name", LINKS)


def functions(batch):
    by_class = class_gradients(batch.loss_fn, jnp.asarray(batch.shares_C))

    def class_grad_fn(*args):
        grads, shares_C, (_, aux) = by_class(*args)
        return grads, shares_C, aux

    return {"grad_fn": batch.grad_fn, "class_grad_fn": class_grad_fn}


def step(link, batch, state=None, params=None, grads=None):
    """Return (returned gradient as a vector, state after)."""
    params = start() if params is None else params
    state = link.init(params) if state is None else state
    grads = batch.grad_fn(params)[0] if grads is None else grads
    batch.calls = 0
    updates, state = link.update(grads, state, params, **functions(batch), probe=False)
    return flat(updates), state


def along(gradient, radius):
    return radius * gradient / (np.linalg.norm(gradient) + 1e-12)


def test_imbsam_is_the_heads_gradient_plus_the_tails_at_its_own_place(x64):
    batch, w = Batch(), flat(start())
    tail = batch.gradient(w, TAIL)
    expected = batch.gradient(w, ~TAIL) + batch.gradient(w + along(tail, 0.3), TAIL)
    found, state = step(imbsam(0.3, TAIL), batch)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    np.testing.assert_allclose(state.ascent_norm, np.linalg.norm(tail), rtol=1e-12)


@pytest.fixture(params=["cpu", "gpu"])
def sort_of_device(request, monkeypatch):
    """Let SSE-SAM take the way of CPUs, which makes all passes, and that of accelerators, which leaves one out."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@pytest.mark.usefixtures("sort_of_device")
def test_sse_sam_perturbs_both_groups_and_later_the_tail_alone(x64):
    batch, w = Batch(), flat(start())
    head, tail = batch.gradient(w, ~TAIL), batch.gradient(w, TAIL)
    tail_there = batch.gradient(w + along(tail, 0.4), TAIL)
    link = sse_sam(0.2, 0.4, 1, TAIL)
    first, state = step(link, batch)
    np.testing.assert_allclose(first, batch.gradient(w + along(head, 0.2), ~TAIL) + tail_there, rtol=1e-11)
    assert state.evaluations == 4
    second, state = step(link, batch, state)
    np.testing.assert_allclose(second, head + tail_there, rtol=1e-11)
    assert state.evaluations == 3
    np.testing.assert_array_equal(second, step(imbsam(0.4, TAIL), batch)[0])


def test_focal_sam_weighs_the_sharpness_of_each_class(x64):
    batch, w = Batch(), flat(start())
    focal_C = (1 - PRIORS) ** 2
    focal = batch.gradient(w, focal_C)
    expected = batch.gradient(w, 1 - 0.7 * focal_C) + 0.7 * batch.gradient(w + along(focal, 0.3), focal_C)
    np.testing.assert_allclose(step(focal_sam(0.3, 2.0, 0.7, PRIORS), batch)[0], expected, rtol=1e-11)


@pytest.mark.parametrize(("sigma", "radius"), [(0.5, 0.5), (1e9, 0.2)])
def test_le_sams_radius_is_the_losss_rise_over_the_gradient(sigma, radius, x64):
    batch, w = Batch(), flat(start())
    gradient = batch.gradient(w)
    rho = min(sigma / np.linalg.norm(gradient), 0.2)
    assert (rho == 0.2) == (radius == 0.2)
    expected = batch.gradient(w + along(gradient, rho))
    np.testing.assert_allclose(step(le_sam(sigma, 0.2), batch)[0], expected, rtol=1e-11)


def test_cc_sams_radii(x64):
    batch, params, w = Batch((0.5, 0.5, 0.0)), start(), flat(start())
    where = np.arange(SIZE) >= SIZE - 2  # the head is the last module
    expected = 0.5 * batch.gradient(w)
    for c, n in ((0, 600), (1, 300)):
        one = np.eye(3)[c]
        own = batch.gradient(w, one)[where] / 0.5  # of the class's mean loss
        radius = 0.1 * np.sqrt(np.linalg.norm(w[where]) / (2 * np.linalg.norm(own))) * 2**-0.25 * (n - 1) ** -0.25
        shift = np.zeros(SIZE)
        shift[where] = np.sqrt(2) * radius * own / np.linalg.norm(own)
        expected += 0.5 * batch.gradient(w + shift, one)
    np.testing.assert_allclose(
        step(cc_sam(0.1, COUNTS, in_linear, flat_ratio=0.5), batch, params=params)[0], expected, rtol=1e-11
    )


def test_pgd_adds_the_draw_where_the_gradient_is_small(x64):
    batch, w = Batch(), flat(start())
    gradient = batch.gradient(w)
    noise = flat(uniform_in_ball(jax.random.fold_in(jax.random.key(7), 0), start(), 0.3))
    assert 0 < np.linalg.norm(noise) <= 0.3
    for threshold, active in ((None, 1), (1.01 * np.linalg.norm(gradient), 1), (0.99 * np.linalg.norm(gradient), 0)):
        np.testing.assert_allclose(step(pgd(0.3, threshold, seed=7), batch)[0], gradient + active * noise, rtol=1e-12)


def test_pgd_is_the_algorithm_of_2017_cut_elsewhere(x64):
    # Jin et al.: x += ξ; x -= lr · g(x). Ours, begun at their x + ξ: w -= lr · (g(w) + z), with ξ = -lr z.
    batch, lr, tx = Batch(), 0.01, optax.chain(pgd(0.3, seed=7), optax.sgd(0.01))
    params = start()
    state, theirs = tx.init(params), flat(params)
    for count in range(5):
        updates, state = tx.update(batch.grad_fn(params)[0], state, params, grad_fn=batch.grad_fn)
        params = optax.apply_updates(params, updates)
        theirs = theirs - lr * batch.gradient(theirs)
        theirs = theirs - lr * flat(uniform_in_ball(jax.random.fold_in(jax.random.key(7), count), start(), 0.3))
    np.testing.assert_allclose(flat(params), theirs, rtol=1e-12)


def test_cnc_pgd_with_sgd_is_two_steps(x64):
    batch, w = Batch(), flat(start())
    gradient = batch.gradient(w)
    for threshold, ratio in ((None, 5), (1.01 * np.linalg.norm(gradient), 5), (0.99 * np.linalg.norm(gradient), 0)):
        between = w - ratio * 0.01 * gradient
        found, _ = step(cnc_pgd(5.0, lambda count: 0.01 + count, threshold), batch)
        np.testing.assert_allclose(w - 0.01 * found, between - 0.01 * batch.gradient(between), rtol=1e-12)


def test_lpf_sgd_is_the_mean_over_its_draws(x64):
    batch, w = Batch(), flat(start())
    keys = jax.random.split(jax.random.fold_in(jax.random.key(7), 0), 3)
    places = [w + flat(filter_noise(key, start(), 0.1)) for key in keys]
    found, state = step(lpf_sgd(0.1, 3, seed=7, aux_like={"first": jnp.zeros(())}), batch)
    np.testing.assert_allclose(found, np.mean([batch.gradient(place) for place in places], axis=0), rtol=1e-11)
    np.testing.assert_allclose(state.aux["first"], places[-1][0], rtol=1e-12)  # block/bias comes first


def test_a_filter_is_an_output_of_a_kernel_and_a_vector_as_a_whole(x64):
    params = start()
    draws = jax.vmap(lambda key: filter_noise(key, params, 0.1))(jax.random.split(jax.random.key(0), 20_000))
    kernel = params["block"]["kernel"]
    deviations = np.broadcast_to(0.1 * np.linalg.norm(kernel, axis=0), kernel.shape)
    np.testing.assert_allclose(draws["block"]["kernel"].std(0), deviations, rtol=0.03)
    length = np.linalg.norm(params["block"]["bias"])
    np.testing.assert_allclose(draws["block"]["bias"].std(0), 0.1 * length, rtol=0.03)


def test_the_ball_is_filled_evenly(x64):
    like = {"a": jnp.zeros(2), "b": jnp.zeros((1, 1))}
    draws = jax.vmap(lambda key: uniform_in_ball(key, like, 2.0))(jax.random.split(jax.random.key(0), 20_000))
    points = np.concatenate([draws["a"], draws["b"][:, 0]], axis=1)
    volume = np.sort((np.linalg.norm(points, axis=1) / 2) ** 3)  # uniform in [0, 1]
    assert np.abs(volume - np.arange(20_000) / 20_000).max() < 1.7 / np.sqrt(20_000)  # Kolmogorov, one in 150
    np.testing.assert_allclose(points.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(points.T), np.eye(3) * 4 / 5, atol=0.03)  # radius² / (n + 2)


LIMITS = {
    "sam, no radius": (sam(0.0), None),
    "pgd, no radius": (pgd(0.0), None),
    "pgd, never small": (pgd(1.0, 1e-9), None),
    "cnc_pgd, no step": (cnc_pgd(0.0, 0.1), None),
    "cnc_pgd, never small": (cnc_pgd(1.0, 0.1, 1e-9), None),
    "lpf_sgd, no noise": (lpf_sgd(0.0, 2), None),
    "imbsam, no tail": (imbsam(0.3, NONE), None),
    "imbsam, all tail": (imbsam(0.3, ALL), sam(0.3)),
    "sse_sam, no tail, later": (sse_sam(0.2, 0.4, 0, NONE), None),
    "sse_sam, no tail": (sse_sam(0.2, 0.4, 9, NONE), sam(0.2)),
    "sse_sam, all tail": (sse_sam(0.2, 0.4, 9, ALL), sam(0.4)),
    "focal_sam, lambda 0": (focal_sam(0.3, 2.0, 0.0, PRIORS), None),
    "focal_sam, gamma 0": (focal_sam(0.3, 0.0, 1.0, PRIORS), sam(0.3)),
    "le_sam, no rise": (le_sam(0.0, 0.3), None),
    "le_sam, any rise": (le_sam(1e30, 0.3), sam(0.3)),
    "cc_sam, none flat": (cc_sam(0.1, COUNTS, in_linear, flat_ratio=0.0), None),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_bit_for_bit(name):
    link, other = LIMITS[name]
    batch = Batch()
    expected = flat(batch.grad_fn(start())[0]) if other is None else step(other, batch)[0]
    np.testing.assert_array_equal(step(link, batch)[0], expected)


@pytest.mark.parametrize(
    "link",
    [imbsam(0.0, TAIL), sse_sam(0.0, 0.0, 9, TAIL), focal_sam(0.0, 2.0, 0.7, PRIORS), cc_sam(0.0, COUNTS, in_linear)],
)
def test_no_radius_is_sgd_up_to_the_order_of_sums(link, x64):
    batch = Batch()
    np.testing.assert_allclose(step(link, batch)[0], batch.gradient(flat(start())), rtol=1e-11)


@every_link
@pytest.mark.parametrize("shares", [(0.6, 0.4, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)])
def test_a_batch_that_lacks_classes_or_any_gradient_gives_finite_numbers(name, shares):
    updates, state = step(LINKS[name](), Batch(shares))
    assert np.isfinite(updates).all()
    assert np.isfinite(state.ascent_norm)
    if not any(shares) and name != "pgd":
        assert not updates.any()


def test_without_tail_images_imbsam_is_sgd_and_sse_sam_is_sam():
    batch = Batch((0.6, 0.4, 0.0))
    np.testing.assert_array_equal(step(imbsam(0.3, TAIL), batch)[0], flat(batch.grad_fn(start())[0]))
    np.testing.assert_array_equal(step(sse_sam(0.3, 0.3, 9, TAIL), batch)[0], step(sam(0.3), batch)[0])


@every_link
def test_evaluations_are_those_that_were_made(name):
    batch = Batch()
    link = lpf_sgd(0.1, 2) if name == "lpf_sgd" else LINKS[name]()  # a loop is traced once, however long it is
    _, state = step(link, batch)
    extra = {"lpf_sgd": FORWARD, "cc_sam": 2 + FORWARD}.get(name, 1)
    np.testing.assert_allclose(state.evaluations, batch.calls + extra, rtol=1e-6)


@every_link
def test_a_run_is_a_function_of_its_state(name):
    batch = Batch()
    tx = optax.chain(
        LINKS[name](aux_like={"first": jnp.zeros(())}),
        optax.add_decayed_weights(1e-2),
        optax.trace(0.9),
        optax.scale_by_learning_rate(0.01),
    )

    def advance(carry, _):
        params, state = carry
        updates, state = tx.update(batch.grad_fn(params)[0], state, params, **functions(batch))
        params = optax.apply_updates(params, updates)
        return (params, state), (flat_jax(params), find_link_state(state).evaluations)

    flat_jax = lambda tree: jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])  # noqa: E731
    run = jax.jit(functools.partial(jax.lax.scan, advance, length=3))
    begin = (start(), tx.init(start()))
    middle, (first, cost) = run(begin)
    end, (second, later_cost) = run(jax.tree.map(lambda x: jnp.array(np.array(x)), middle))  # through the host
    (whole, _), (both, _) = jax.jit(functools.partial(jax.lax.scan, advance, length=6))(begin)
    np.testing.assert_allclose(np.concatenate([first, second]), both, rtol=2e-6)
    assert jax.tree.structure(begin) == jax.tree.structure(end)
    link_state = find_link_state(end[1])
    assert link_state.count == 6
    if name == "sse_sam":  # its second stage begins after three steps
        assert set(cost.tolist()) == {4.0} and set(later_cost.tolist()) == {3.0}
    else:
        assert set(cost.tolist()) == set(later_cost.tolist()) == {float(cost[0])}
    if link_state.aux:
        assert link_state.aux["first"] != 0
    assert np.isfinite(flat(whole)).all()


def test_momentum_and_weight_decay_act_on_what_the_link_returns(x64):
    batch, w = Batch(), flat(start())
    tx = optax.chain(
        imbsam(0.3, TAIL), optax.add_decayed_weights(1e-2), optax.trace(0.9), optax.scale_by_learning_rate(0.01)
    )
    params, velocity = start(), np.zeros(SIZE)
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(batch.grad_fn(params)[0], state, params, grad_fn=batch.grad_fn)
        params = optax.apply_updates(params, updates)
        there = w + along(batch.gradient(w, TAIL), 0.3)
        velocity = 0.9 * velocity + batch.gradient(w, ~TAIL) + batch.gradient(there, TAIL) + 1e-2 * w
        w = w - 0.01 * velocity
    np.testing.assert_allclose(flat(params), w, rtol=1e-11)


@pytest.mark.parametrize("make", [lambda **k: pgd(0.3, **k), lambda **k: lpf_sgd(0.1, **k)], ids=["pgd", "lpf_sgd"])
def test_draws_are_functions_of_key_and_counter(make):
    batch = Batch()
    found, state = step(make(seed=1), batch)
    np.testing.assert_array_equal(found, step(make(seed=1), batch)[0])
    assert not np.array_equal(found, step(make(seed=1), batch, state)[0])  # the next step
    assert not np.array_equal(found, step(make(seed=2), batch)[0])
    chain = optax.chain(make(seed=1), optax.sgd(0.1))
    changed = find_link_state(with_key(chain.init(start()), jax.random.key(2)))
    np.testing.assert_array_equal(step(make(seed=1), batch, changed)[0], step(make(seed=2), batch)[0])
    assert with_key(sam(0.1).init(start()), jax.random.key(2)).key == ()


SCHEDULED = {
    "pgd": (pgd, ()),
    "lpf_sgd": (lpf_sgd, ()),
    "cnc_pgd": (cnc_pgd, (0.1,)),
    "imbsam": (imbsam, (TAIL,)),
    "sse_sam": (sse_sam, (0.0, 9, TAIL)),
    "focal_sam": (focal_sam, (2.0, 1.0, PRIORS)),
    "le_sam": (le_sam, (9.0,)),
    "cc_sam": (cc_sam, (COUNTS, in_linear)),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_radii_follow_the_links_own_counter(name, x64):
    make, rest = SCHEDULED[name]
    batch = Batch()
    link = make(lambda count: jnp.where(count < 1, 0.0, 0.3), *rest)
    first, state = step(link, batch)
    second, _ = step(link, batch, state)
    np.testing.assert_allclose(first, batch.gradient(flat(start())), rtol=1e-11)
    np.testing.assert_array_equal(second, step(make(0.3, *rest), batch, state)[0])
    assert not np.allclose(first, second)


def on_devices(tx, batch):
    """Return the update where each of the devices has its own part of every gradient, and the state."""
    params, parts = start(), devices.num_devices()
    parts_D = jax.random.dirichlet(jax.random.key(0), jnp.ones(parts))

    def update(part):
        def own(tree):
            return jax.tree.map(lambda x: part[0] * x, tree)

        def grad_fn(params, class_weights_C=None):
            grads, aux = batch.grad_fn(params, class_weights_C)
            return own(grads), aux

        def class_grad_fn(*args):
            grads, *rest = functions(batch)["class_grad_fn"](*args)
            return own(grads), *rest

        extra = {"grad_fn": grad_fn, "class_grad_fn": class_grad_fn}
        return tx.update(grad_fn(params)[0], tx.init(params), params, **extra)

    return devices.map_step(update, 0, gather=True)(parts_D[:, None])


@every_link
def test_shared_sees_the_whole_batch_on_every_device(name, x64):
    batch = Batch()
    assert devices.num_devices() == 8
    updates, state = on_devices(shared(LINKS[name](), devices.AXIS), batch)
    expected, alone = step(LINKS[name](), batch)
    for device in range(8):
        own, own_state = jax.tree.map(lambda x: x[device], (updates, state))  # noqa: B023
        np.testing.assert_allclose(flat(own), expected, rtol=1e-10)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), own_state, alone)
    link = LINKS[name]()
    assert shared(link, None) is link


def test_shared_sam_equals_sums_around_sam_bit_for_bit():
    batch, total = Batch(), sum_over_devices(devices.AXIS)
    around, states = on_devices(optax.chain(total, sam(0.3), total), batch)
    wrapped, state = on_devices(shared(sam(0.3), devices.AXIS), batch)
    jax.tree.map(np.testing.assert_array_equal, (wrapped, state), (around, states[1]))


def network(width=256, num_classes=10, images=512):
    """Return parameters and loss of a network with a wide hidden layer and a small head."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "block": {"kernel": jax.random.normal(keys[0], (width, width)) / 16},
        "linear": {"kernel": jax.random.normal(keys[1], (width, num_classes)) / 16},
    }
    inputs = jax.random.normal(keys[2], (images, width))
    labels = jax.random.randint(keys[3], (images,), 0, num_classes)

    def loss_fn(params, class_weights_C=None):
        logits = jnp.tanh(inputs @ params["block"]["kernel"]) @ params["linear"]["kernel"]
        weights = 1.0 if class_weights_C is None else class_weights_C[labels]
        return (weights * optax.softmax_cross_entropy_with_integer_labels(logits, labels)).mean(), ()

    return params, loss_fn, jnp.bincount(labels, length=num_classes) / images


def flops(link, params, loss_fn, shares_C):
    grad_fn = lambda params, c=None: (jax.grad(loss_fn, has_aux=True)(params, c)[0], ())  # noqa: E731

    def take(params, state):
        (value, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        more = {"grad_fn": grad_fn, "class_grad_fn": class_gradients(loss_fn, shares_C)}
        return value, link.update(grads, state, params, **more)

    return jax.jit(take).lower(params, link.init(params)).compile().cost_analysis()["flops"]


def test_costs_are_those_reported():
    params, loss_fn, shares_C = network()
    one = flops(optax.with_extra_args_support(optax.identity()), params, loss_fn, shares_C)
    # The hidden layer, nearly all of the work, has a forward product and, its input being data, one backward.
    forward = 1 / 2
    assert flops(sam(0.1), params, loss_fn, shares_C) == pytest.approx(2 * one, rel=0.1)
    assert flops(lpf_sgd(0.1), params, loss_fn, shares_C) == pytest.approx((1 + forward) * one, rel=0.1)
    found = flops(cc_sam(0.1, np.full(10, 5), in_linear, flat_ratio=0.5), params, loss_fn, shares_C)
    heads = 2 * 512 * 256 * 10 * 10  # a product of ten heads
    assert found - 5 * heads < 1.1 * (2 + forward) * one  # with ten passes of the network 10 times as much


def test_cc_sam_says_what_is_missing():
    batch = Batch()
    link = cc_sam(0.1, COUNTS, in_linear)
    with pytest.raises(TypeError, match="class_grad_fn: found none"):
        link.update(batch.grad_fn(start())[0], link.init(start()), start(), grad_fn=batch.grad_fn)
    with pytest.raises(ValueError, match="no parameter that is_head chooses"):
        step(cc_sam(0.1, COUNTS, lambda params: jax.tree.map(lambda _: False, params)), batch)


@every_link
def test_parameters_are_required_and_so_is_what_the_link_asks_for(name):
    link = LINKS[name]()
    with pytest.raises(ValueError, match=r"(sam|pgd|sgd) needs the parameters: found params=None"):
        link.update(start(), link.init(start()), None, grad_fn=Batch().grad_fn)
    if name == "pgd":  # makes no pass
        link.update(start(), link.init(start()), start())
    else:
        with pytest.raises(TypeError, match=f"{name.replace('asam', 'sam')} needs (class_)?grad_fn: found none"):
            link.update(start(), link.init(start()), start())


def test_a_step_without_a_pass_keeps_what_the_first_one_left():
    def take(grads, params, ask):
        del params
        return Step(grads, 0, 1, ask.aux)

    link = make_link(take, name="idle", aux_like=jnp.zeros(2))
    params = {"w": jnp.ones(3)}
    state = link.init(params)
    _, state = link.update(params, state, params, grad_fn=None, aux=jnp.array([3.0, 4.0]))
    np.testing.assert_array_equal(state.aux, [3, 4])
