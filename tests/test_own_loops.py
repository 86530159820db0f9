"""Links in training loops of other people: those of docs/links.md, and loops that give a link something wrong."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT
from flax import nnx
from quadratics import Batch, start

from saddle_jax.optim.cc_sam import cc_sam, class_gradients
from saddle_jax.optim.focal_sam import focal_sam
from saddle_jax.optim.imbsam import imbsam
from saddle_jax.optim.sam import sam
from saddle_jax.optim.sse_sam import sse_sam

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/links.md").read_text(), re.DOTALL)
TAIL = np.array([False, False, True])
OF_CLASSES = {
    "imbsam": imbsam(0.1, TAIL),
    "sse_sam": sse_sam(0.1, 0.1, 9, TAIL),
    "focal_sam": focal_sam(0.1, 2.0, 0.7, np.array([0.6, 0.3, 0.1])),
}
BATCH = Batch()
GRADIENT = BATCH.grad_fn(start())[0]
IMAGES, LABELS = jax.random.normal(jax.random.key(0), (6, 4)), jnp.array([0, 1, 2, 0, 1, 0])


def update(link, grad_fn, **more):
    """Take a step of a loop that is compiled, as loops are."""
    state = link.init(start())
    jax.eval_shape(lambda params: link.update(GRADIENT, state, params, grad_fn=grad_fn, **more), start())


def test_the_loop_of_the_page():
    params = {"w": jax.random.normal(jax.random.key(1), (4, 3))}
    names = {"is_tail_C": TAIL, "apply": lambda params, images: images @ params["w"]}
    exec(BLOCKS[0], names)
    found, _ = names["step"](params, names["tx"].init(params), IMAGES, LABELS)

    def gradient(w, is_chosen_C):
        def loss(w):
            losses_B = optax.softmax_cross_entropy_with_integer_labels(IMAGES @ w, LABELS)
            return (losses_B * is_chosen_C[LABELS]).sum() / 6

        return jax.grad(loss)(w)

    w, tail = params["w"], gradient(params["w"], TAIL)
    both = gradient(w, ~TAIL) + gradient(w + 0.1 * tail / jnp.linalg.norm(tail), TAIL)
    np.testing.assert_allclose(found["w"], w - 0.1 * (both + 2e-4 * w), rtol=1e-5)


def test_the_nnx_loop_of_the_page():
    class Model(nnx.Module):
        def __init__(self):
            self.norm, self.linear = nnx.BatchNorm(4, rngs=nnx.Rngs(0)), nnx.Linear(4, 3, rngs=nnx.Rngs(0))

        def __call__(self, images):
            return self.linear(self.norm(images))

    names = {"model": (model := Model())}
    exec(BLOCKS[1], names)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def gradient(params):
        return jax.grad(lambda p: names["loss_fn"](nnx.merge(graph, p, rest, copy=True), IMAGES, LABELS))(params)

    grads = gradient(params)
    away = optax.tree.scale(0.1 / optax.tree.norm(grads), grads)
    there = gradient(jax.tree.map(jnp.add, params, away))
    expected = model.linear.kernel[...] - 0.1 * there["linear"]["kernel"][...]
    names["step"](model, names["optimizer"], IMAGES, LABELS)
    np.testing.assert_allclose(model.linear.kernel[...], expected, rtol=1e-5)
    with pytest.raises(TypeError, match=r"sam needs grad_fn.* Fix: .* optimizer.update\(model, grads, grad_fn=grad_fn"):
        names["optimizer"].update(model, nnx.grad(names["loss_fn"])(model, IMAGES, LABELS))


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_gradient_that_ignores_the_class_weights_is_refused_while_it_is_traced(name):
    def ignores(params, class_weights_C=None):
        del class_weights_C
        return BATCH.grad_fn(params)

    def forgets_them_in_the_gradient(params, class_weights_C=None):
        return BATCH.grad_fn(params)[0], class_weights_C

    for grad_fn in (ignores, jax.jit(ignores), forgets_them_in_the_gradient):
        with pytest.raises(TypeError, match=f"{name}: grad_fn ignores class_weights_C.*Fix: multiply the loss"):
            update(OF_CLASSES[name], grad_fn)
    update(OF_CLASSES[name], jax.jit(BATCH.grad_fn))
    update(sam(0.1), ignores)  # asks for no classes
    with pytest.raises(TypeError, match="ignores class_weights_C"):  # also in the first step of a loop without jit
        OF_CLASSES[name].update(GRADIENT, OF_CLASSES[name].init(start()), start(), grad_fn=ignores)


@pytest.mark.parametrize("name", ["sam", "imbsam"])
@pytest.mark.parametrize(
    ("grad_fn", "words"),
    [
        (lambda params, c=None: BATCH.grad_fn(params, c)[0], "returned one dict, expected .gradient, aux.. Fix"),
        (lambda params, c=None: (*BATCH.grad_fn(params, c), 3), "returned a tuple of 3, expected"),
        (lambda params, c=None: BATCH.loss_fn(params, c), "found an array of shape .*, expected ..block"),
        (lambda params, *_: ({"block": params["block"]}, ()), "found 2 arrays, expected 3"),
        (lambda params, *_: (list(params.values()), ()), r"found \[0\]\['bias'\].*, expected \['block'\]"),
        (lambda params, *_: (jax.tree.map(lambda x: x[:1], params), ()), "shape .1,., expected .*shape .2,."),
        (lambda: 3, "found a grad_fn that does not take these arguments"),
    ],
)
def test_what_is_no_gradient_and_aux_is_told_in_words(name, grad_fn, words):
    with pytest.raises(TypeError, match=f"{name}.*{words}"):
        update({"sam": sam(0.1), **OF_CLASSES}[name], grad_fn)


def test_links_of_classes_say_that_grad_fn_takes_no_weights():
    with pytest.raises(TypeError, match=r"imbsam calls grad_fn\(params, class_weights_C\): found .* does not take"):
        update(OF_CLASSES["imbsam"], lambda params: BATCH.grad_fn(params))


def test_an_aux_that_is_not_like_aux_like_is_told():
    for aux_like in ({"second": jnp.zeros(())}, {"first": jnp.zeros(2)}):
        with pytest.raises(TypeError, match="sam: aux is not like aux_like: found ..first.. of shape"):
            update(sam(0.1, aux_like=aux_like), BATCH.grad_fn)


def test_cc_sams_loss_is_checked_too():
    link = cc_sam(0.1, np.array([600, 300, 1]), lambda params: jax.tree.map(lambda _: True, params))
    for loss_fn, words in (
        (lambda params, _: BATCH.loss_fn(params), "loss_fn ignores class_weights_C. Fix"),
        (lambda params, c: BATCH.loss_fn(params, c)[0], "loss_fn returned one .*, expected .loss, aux."),
    ):
        by_class = class_gradients(loss_fn, jnp.asarray(BATCH.shares_C))
        with pytest.raises(TypeError, match=f"class_gradients: {words}"):
            update(link, BATCH.grad_fn, class_grad_fn=by_class)
