"""SAM as a link of an optax chain: known answers, parity, and the reference's three steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import optimizations
from golden_resnet import batch, config_of, global_norm, leaf, load, method_of, our_value, variables

from saddle_jax.errors import ConfigError
from saddle_jax.longtail import ClassStats
from saddle_jax.models import adapters, tuning
from saddle_jax.optim.chain import make_optimizer
from saddle_jax.optim.link import find_link_state, only
from saddle_jax.optim.sam import perturbation, sam, stable_norm
from saddle_jax.schedules import make_schedules
from saddle_jax.training.gradient import pass_like
from saddle_jax.training.steps import init_state, make_train_step

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

HESSIAN = jnp.diag(jnp.array([3.0, 0.5, -2.0]))


def quadratic(params, class_weights_C=None):
    del class_weights_C
    return {"w": HESSIAN.astype(params["w"].dtype) @ params["w"]}, {"loss": 0.5 * params["w"] @ HESSIAN @ params["w"]}


def run(tx, params, steps, grad_fn=quadratic):
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grad_fn(params)[0], state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("seed", range(5))
def test_quadratic_gradient_is_amplified_by_one_plus_rho_lambda(seed, x64):
    # g(w + e) = H (w + rho g/|g|) = (I + rho/|g| H) g: along an eigenvector the factor is 1 + rho_eff * lambda.
    params = {"w": jax.random.normal(jax.random.key(seed), (3,))}
    grads, _ = quadratic(params)
    descent, state = sam(0.7).update(grads, sam(0.7).init(params), params, grad_fn=quadratic)
    factor = 1 + 0.7 / jnp.linalg.norm(grads["w"]) * jnp.diag(HESSIAN)
    np.testing.assert_allclose(descent["w"], factor * grads["w"], rtol=1e-10)
    np.testing.assert_allclose(state.ascent_norm, jnp.linalg.norm(grads["w"]), rtol=1e-14)


# Of the linear head, test_resnet_cifar.py has the reference's logits, and test_losses.py the reference's loss.
@pytest.mark.parametrize(("head", "rho"), [pytest.param("linear", 0.8, marks=pytest.mark.nightly), ("normed", 0.05)])
@optimizations(few=False)  # wide layers in float64: slow code takes longer than compiling
def test_three_steps_of_resnet32_equal_the_reference(head, rho, x64):
    store = load(head)
    config = config_of(head)
    config.sam.rho = ((0, rho),)
    stats = ClassStats(store["counts"], ())
    np.testing.assert_allclose(stats.effective_weights_C(0.9999), store["class_weights"], rtol=1e-10)
    method = method_of(config, store)
    schedules = make_schedules(config, stats, steps_per_epoch=100)
    tx = make_optimizer(config, schedules, stats, aux_like=pass_like(method))
    start = variables(store, head)
    like = jax.eval_shape(lambda: init_state(method, tx, jax.random.key(0)))
    state = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), like)._replace(
        step=jnp.zeros((), jnp.int32), params=start.params, model_state=start.model_state
    )
    state = state._replace(opt_state=tx.init(start.params))
    step = jax.jit(make_train_step(method, tx, schedules.class_weights, batch_stats_policy="both"))
    for index in range(3):
        state, metrics = step(state, (batch(store, index),))
        np.testing.assert_allclose(
            [metrics.loss, metrics.perturbed_loss], store[f"sam_rho{rho}/losses"][index], rtol=1e-8
        )
    logits = jax.jit(method.predict)(state.params, state.model_state, batch(store, 3))
    np.testing.assert_allclose(logits, store[f"sam_rho{rho}/logits_eval_after"], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(global_norm(state.params), store[f"sam_rho{rho}/after/norm"], rtol=1e-8)
    for key in store:
        prefix = f"sam_rho{rho}/after/"
        if key.startswith(prefix) and not key.endswith("norm"):
            name = key.removeprefix(prefix)
            tree = state.model_state["batch_stats"] if "running" in name else state.params
            expected = our_value(name, store[key], head == "normed")
            np.testing.assert_allclose(leaf(tree, name), expected, rtol=1e-8, atol=1e-11, err_msg=name)
    counters = [x for x in jax.tree.leaves(state.opt_state) if x.dtype == jnp.int32]
    assert [int(c) for c in counters] == [3] * len(counters)
    assert len(counters) == 2  # SAM's and the learning rate's own


def test_equals_optax_contrib_sam(x64):
    params = {"w": jnp.array([1.0, -2.0, 0.5])}
    sgd = (optax.add_decayed_weights(1e-2), optax.sgd(0.05, momentum=0.9))
    ours, _ = run(optax.chain(sam(0.1, eps=0.0), *sgd), params, 100)
    theirs_tx = optax.contrib.sam(
        optax.chain(*sgd), optax.chain(optax.contrib.normalize(), optax.sgd(0.1)), opaque_mode=True
    )
    theirs, state = params, theirs_tx.init(params)
    for _ in range(100):
        updates, state = theirs_tx.update(quadratic(theirs)[0], state, theirs, grad_fn=lambda p, _: quadratic(p)[0])
        theirs = optax.apply_updates(theirs, updates)
    np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-12)


def test_rho_zero_equals_the_base_optimizer_bit_for_bit():
    params = {"w": jnp.array([1.0, -0.0, 0.3])}
    base = (optax.add_decayed_weights(1e-2), optax.trace(0.9), optax.scale_by_learning_rate(0.1))
    with_sam, sam_state = run(optax.chain(sam(0.0), *base), params, 20)
    without, state = run(optax.chain(*base), params, 20)
    np.testing.assert_array_equal(with_sam["w"], without["w"])
    for ours, theirs in zip(jax.tree.leaves(sam_state[1:]), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_zero_gradient_gives_a_zero_perturbation(adaptive):
    params = {"w": jnp.zeros(3), "b": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    for eps in (0.0, 1e-12):
        shift, norm = perturbation(zero, params, 0.5, adaptive=adaptive, eps=eps)
        assert norm == 0
        assert all((x == 0).all() for x in jax.tree.leaves(shift))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_length_neither_overflows_nor_underflows(size):
    grads = {"a": jnp.full(3, size), "b": jnp.full(6, size)}
    np.testing.assert_allclose(stable_norm(grads), 3 * size, rtol=1e-6)
    shift, _ = perturbation(grads, grads, 0.5, eps=0.0)
    np.testing.assert_allclose(stable_norm(shift), 0.5, rtol=1e-6)


def test_bfloat16_leaves_keep_their_dtype():
    grads = {"a": jnp.full(300, 0.1, jnp.bfloat16), "b": jnp.ones(2)}
    shift, norm = perturbation(grads, grads, 0.5)
    assert shift["a"].dtype == jnp.bfloat16
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, np.sqrt(5), rtol=1e-2)


def test_asam_scales_with_the_weights(x64):
    params = {"w": jnp.array([2.0, -0.5])}
    grads = {"w": jnp.array([1.0, 3.0])}
    shift, norm = perturbation(grads, params, 0.3, adaptive=True, adaptive_eta=0.01)
    size = np.abs([2.0, -0.5]) + 0.01
    expected = 0.3 * size**2 * np.array([1.0, 3.0]) / np.linalg.norm(size * [1.0, 3.0])
    np.testing.assert_allclose(shift["w"], expected, rtol=1e-12)
    np.testing.assert_allclose(norm, np.linalg.norm(size * [1.0, 3.0]), rtol=1e-12)


def test_rho_follows_the_links_own_counter():
    seen = []
    tx = sam(lambda count: jnp.where(count < 2, 0.1, 0.4))
    params = {"w": jnp.array([1.0, 1.0, 1.0])}
    state = tx.init(params)

    def grad_fn(shifted, class_weights_C=None):
        seen.append(float(jnp.linalg.norm(shifted["w"] - params["w"])))
        return quadratic(shifted)

    for _ in range(4):
        _, state = tx.update(quadratic(params)[0], state, params, grad_fn=grad_fn)
    np.testing.assert_allclose(seen, [0.1, 0.1, 0.4, 0.4], rtol=1e-5)
    assert state.count == 4


def test_aux_of_the_second_pass_is_kept_if_asked_for():
    params = {"w": jnp.array([1.0, 1.0, 1.0])}
    tx = sam(0.1, aux_like={"loss": jnp.zeros(())})
    grads, clean = quadratic(params)
    _, state = tx.update(grads, tx.init(params), params, grad_fn=quadratic)
    assert state.aux["loss"] > clean["loss"]
    assert sam(0.1).init(params).aux == ()


def test_works_inside_other_optax_wrappers():
    params = {"w": jnp.array([1.0, 1.0, 1.0])}
    wrappers = (
        functools.partial(optax.MultiSteps, every_k_schedule=2),
        functools.partial(optax.apply_if_finite, max_consecutive_errors=2),
    )
    for wrap in wrappers:
        tx = wrap(optax.chain(sam(0.1, aux_like={"loss": jnp.zeros(())}), optax.sgd(0.1)))
        moved, state = run(tx, params, 4)
        assert np.isfinite(moved["w"]).all()
        assert not np.array_equal(moved["w"], params["w"])
        assert find_link_state(state) is not None


def test_parameters_are_required():
    tx = sam(0.1)
    with pytest.raises(ValueError, match="found params=None"):
        tx.update({"w": jnp.ones(3)}, tx.init({"w": jnp.ones(3)}), None, grad_fn=quadratic)


@pytest.mark.parametrize("perturbed", ["norm", "head"])
def test_a_part_of_the_parameters_is_perturbed_and_all_of_them_move(perturbed):
    params = {
        "bn": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        "conv": {"kernel": jnp.ones(4)},
        "linear": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
    }
    mask = {"norm": tuning.norms, "head": lambda p: {k: jax.tree.map(lambda _, k=k: k == "linear", p[k]) for k in p}}
    seen = []

    def grad_fn(point, class_weights_C=None):
        del class_weights_C
        seen.append(point)
        return jax.tree.map(jnp.ones_like, point), ()

    link = sam(2.0, perturbed=mask[perturbed])
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = link.update(grads, link.init(params), params, grad_fn=grad_fn, probe=False)
    moved = jax.tree.map(lambda a, b: a - b, seen[-1], params)
    size = {"norm": 6, "head": 4}[perturbed]
    for chosen, change in zip(jax.tree.leaves(mask[perturbed](params)), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(change, 2 / size**0.5 if chosen else 0, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, updates, grads)
    assert state.ascent_norm == pytest.approx(size**0.5)


def test_a_norm_is_known_by_its_scale_even_if_that_is_not_trained():
    """As with model.train=bias; a learned scale of other modules is no norm."""
    adapter = adapters.AdaptFormer(2, None).init(jax.random.key(0), jnp.ones((1, 1, 4)))["params"]
    params = {"bn": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}, "adapter": adapter}

    def biases(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "bias", params)

    marked = [path for path, norm in jax.tree_util.tree_leaves_with_path(tuning.norms(params)) if norm]
    names = ["['adapter']['norm']['bias']", "['adapter']['norm']['scale']", "['bn']['bias']", "['bn']['scale']"]
    assert list(map(jax.tree_util.keystr, marked)) == names
    link = only(biases, sam(2.0, perturbed=tuning.norms))

    def grad_fn(point, class_weights_C=None):
        del class_weights_C
        return jax.tree.map(jnp.ones_like, point), ()

    _, state = link.update(grad_fn(params)[0], link.init(params), params, grad_fn=grad_fn)
    assert state.ascent_norm == pytest.approx((3 + 4) ** 0.5)


def test_no_norm_to_perturb_is_refused_before_training():
    config = config_of("linear")
    config.sam.perturbed = "norm"
    stats = ClassStats(np.array([5, 3]), ())
    optimizer = make_optimizer(config, make_schedules(config, stats, 3), stats)
    optimizer.init({"bn": {"scale": jnp.ones(3)}})
    with pytest.raises(ConfigError, match="perturbed='norm' perturbs nothing: no such parameter is trained"):
        optimizer.init({"linear": {"kernel": jnp.ones((2, 3))}})


def test_a_method_that_marks_no_classifier_is_refused():
    config = config_of("linear")
    config.sam.perturbed = "head"
    stats = ClassStats(np.array([5, 3]), ())
    with pytest.raises(ConfigError, match="sam.perturbed='head' needs a method that marks its classifier"):
        make_optimizer(config, make_schedules(config, stats, 3), stats)
