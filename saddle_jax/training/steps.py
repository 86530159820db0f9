"""One training step and one evaluation step: pure functions of one device's part of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from saddle_jax.data.images import Batch
from saddle_jax.host import devices
from saddle_jax.methods.base import DESCENT, Context, Method, Variables
from saddle_jax.optim.link import find_link_state, with_key
from saddle_jax.schedules import Schedule
from saddle_jax.training.gradient import Pass, make_class_gradient, make_gradient
from saddle_jax.training.state import TrainState, Weights

TOP = 5
# Folded into a run's key. They are far from the small numbers that methods fold into it for their own keys.
_LINK, _NETWORK = 0x6C696E6B, 0x6E657477


class StepMetrics(NamedTuple):
    """Scalars of one step."""

    loss: jax.Array  # at w
    perturbed_loss: jax.Array  # at the last place that a link asked for, SAM's w + e; without a link, `loss`
    ascent_norm: jax.Array  # length of the gradient that the link perturbed along; 0 without one
    gradient_evaluations: jax.Array  # forward and backward passes over the batch
    update_norm: jax.Array
    finite: jax.Array  # bool: losses and update are finite, and were in every step before; if not, nothing was changed
    skipped: jax.Array  # bool: the batch had no image; the quantities above mean nothing, and only the counts advanced
    method: dict[str, jax.Array]  # the method's own metrics, at w
    schedules: dict[str, jax.Array]  # values at this step


class EvalOutput(NamedTuple):
    """The outputs for a batch, with one value per image."""

    predictions: jax.Array
    in_top: jax.Array  # bool: the label is among the TOP largest logits
    finite: jax.Array  # bool: all logits are finite
    logits: jax.Array | None = None  # (C,) float32, whose softmax is the probabilities; None unless asked for


def init_state(
    method: Method, tx: optax.GradientTransformationExtraArgs, key: jax.Array, *, with_average: bool = False
) -> TrainState:
    """Return the state before the first step."""
    params, model_state, method_state = method.init(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=with_key(tx.init(params), jax.random.fold_in(key, _LINK)),
        method_state=method_state,
        key=jax.random.key_data(jax.random.fold_in(key, _NETWORK)),
        finite=jnp.ones((), bool),
        average=Weights(params, model_state) if with_average else (),
    )


def make_train_step(
    method: Method,
    tx: optax.GradientTransformationExtraArgs,
    class_weights: Schedule,
    *,
    first_pass: str = DESCENT,
    batch_stats_policy: str = "both",
    micro_batches: int = 1,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
    logged: Mapping[str, Schedule] | None = None,
) -> Callable[[TrainState, tuple[Batch, ...]], tuple[TrainState, StepMetrics]]:
    """Return the per-device training step, which takes a batch for every view of the method's streams.

    Args:
      class_weights: step -> (C,).
      first_pass: what the gradient at w is for: ASCENT if the chain's link does nothing but perturb along it.
      batch_stats_policy: which passes of a step move the model's state, such as BatchNorm's running statistics.
        first: the one at w; second: the last one that the chain's link asks for, SAM's at w + e; both: one after the
        other, as in the reference; frozen: none.
      micro_batches: number of parts that a device's part of the batch is cut into, to need less memory.
      ema_decay: decay of the average of the weights; 0 for none.
      axis_name: axis that the step is mapped over; None for one device without a map.
      logged: schedules whose values are among the metrics.

    The host may read the metrics many steps later. So once a step is not finite, the state stays as it was before that
    step, with `finite` False. A step whose batch has no image, on any device, changes nothing but the counts of steps.
    """

    def step(state: TrainState, views: tuple[Batch, ...]) -> tuple[TrainState, StepMetrics]:
        start = Variables(state.params, state.model_state, state.method_state)
        of_step = devices.own_key(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step), axis_name)
        prepare_key, key = jax.random.split(of_step)
        inputs = jax.lax.stop_gradient(method.prepare(start, views, state.step, prepare_key))
        gradient = make_gradient(method, inputs, axis_name, micro_batches)
        context = Context(state.step, first_pass, class_weights(state.step), key=key)
        descent = context._replace(pass_name=DESCENT)
        grads, first = gradient(start, context)
        second_start = start._replace(model_state=first.model_state) if batch_stats_policy == "both" else start

        def grad_fn(params, class_weights_C=None) -> tuple[Any, Pass]:
            there = second_start._replace(params=params)
            grads, second = gradient(there, descent._replace(extra_weights_C=class_weights_C))
            return grads, second.for_link

        class_grad_fn = make_class_gradient(method, inputs, second_start, descent, axis_name)
        functions = {"grad_fn": grad_fn, "class_grad_fn": class_grad_fn}
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, **functions, aux=first.for_link, probe=False
        )
        link = find_link_state(opt_state)
        last = first if link is None or link.aux == () else link.aux
        params = _moved(method, state.params, updates)
        model_state = {"first": first, "frozen": start}.get(batch_stats_policy, last).model_state
        method_state = method.after_update(Variables(params, model_state, state.method_state), inputs)
        average = _average(state, Weights(params, model_state), ema_decay) if ema_decay else ()
        new = TrainState(state.step + 1, params, model_state, opt_state, method_state, state.key, state.finite, average)

        update_norm = optax.tree.norm(updates)
        is_empty = first.images == 0
        finite = jnp.isfinite(first.loss) & jnp.isfinite(last.loss) & jnp.isfinite(update_norm)
        finite = (finite | is_empty) & state.finite
        metrics = StepMetrics(
            loss=first.loss,
            perturbed_loss=last.loss,
            ascent_norm=jnp.zeros_like(first.loss) if link is None else link.ascent_norm,
            gradient_evaluations=jnp.float32(1) if link is None else link.evaluations,
            update_norm=update_norm,
            finite=finite,
            skipped=finite & is_empty,
            method=first.metrics,
            schedules={name: schedule(state.step) for name, schedule in (logged or {}).items()},
        )
        skipped = state._replace(step=new.step, opt_state=_counted(state.opt_state, opt_state))
        broken = state._replace(finite=jnp.zeros_like(state.finite))
        stays = _where(metrics.skipped, skipped, broken)
        return _where(finite & ~is_empty, new, stays), metrics

    return step


def _where(condition: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """Return one of two states. What is the same in both is returned as it is, so that no loop copies it."""
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(condition, a, b), new, old)


def _moved(method: Method, params: Any, updates: Any) -> Any:
    """Return the parameters after an update, which leaves those that the method does not train as they are."""
    moved = optax.apply_updates(params, updates)
    if method.trained is None:
        return moved
    return jax.tree.map(lambda chosen, new, old: new if chosen else old, method.trained(params), moved, params)


def _average(state: TrainState, weights: Weights, decay: float) -> Weights:
    """Return the exponential moving average of the weights after a step.

    The decay of step t, from 0, is min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten
    (TensorFlow's ExponentialMovingAverage). What did not change keeps its bits. Integers and keys are the newest.
    """
    step = state.step.astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))

    def moved(before: jax.Array, now: jax.Array) -> jax.Array:
        if not jnp.issubdtype(now.dtype, jnp.inexact):
            return now
        return before + (share * (now - before)).astype(now.dtype)

    return jax.tree.map(moved, state.average, weights)


def _counted(before: Any, after: Any) -> Any:
    """Return an optimizer's state in which only the counts, which schedules follow, have advanced."""
    return jax.tree.map(lambda b, a: a if jnp.issubdtype(a.dtype, jnp.integer) else b, before, after)


def make_eval_step(method: Method, logit_scale: float | None = None) -> Callable[[Any, Any, Batch], EvalOutput]:
    """Return the per-device evaluation step: (params, model_state, batch) -> one value per image.

    Args:
      logit_scale: also return the logits, times this factor.
    """

    def step(params: Any, model_state: Any, batch: Batch) -> EvalOutput:
        logits_BC = method.predict(params, model_state, batch)
        _, top = jax.lax.top_k(logits_BC, min(TOP, logits_BC.shape[1]))
        return EvalOutput(
            predictions=jnp.argmax(logits_BC, axis=1),
            in_top=jnp.any(top == batch.labels[:, None], axis=1),
            finite=jnp.all(jnp.isfinite(logits_BC), axis=1),
            logits=None if logit_scale is None else (logits_BC * logit_scale).astype(jnp.float32),
        )

    return step
