"""What is not finite ends the run at its step, wherever it begins; and nothing of it is ever on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import small_config, train

from saddle_jax.data import sources
from saddle_jax.errors import NonFiniteError
from saddle_jax.host import devices
from saddle_jax.methods.base import DESCENT
from saddle_jax.methods.plain import make as make_plain
from saddle_jax.training import checkpoint, program

pytestmark = pytest.mark.usefixtures("compile_file_quickly", "small_network")


@jax.custom_jvp
def with_nan_slope(x, broken):
    return x


@with_nan_slope.defjvp
def _(primals, tangents):
    x, broken = primals
    return x, tangents[0] * jnp.where(broken, jnp.nan, 1.0)


def breaking(kind, step):
    """Return a method that breaks at `step`; its own state counts steps, so that one compilation serves all."""

    def make(*arguments):
        plain = make_plain(*arguments)

        def init(key):
            return plain.init(key)._replace(method_state=jnp.array([step, 0]))

        def loss(variables, batch, context):
            last, now = variables.method_state
            hit = now + 1 == last
            if kind == "pixel on device 1":
                hit &= jax.lax.axis_index(devices.AXIS) == 1
            if kind.startswith("pixel"):
                images = batch.images.astype(jnp.float32)
                poisoned = images.at[0, 0, 0, 0].set(jnp.where(hit, jnp.nan, images[0, 0, 0, 0]))
                batch = batch._replace(images=poisoned, mask=batch.mask | (jnp.arange(len(batch.mask)) == 0))
            output = plain.loss(variables, batch, context)
            numerator = output.numerator
            if kind == "loss":
                numerator *= jnp.where(hit, jnp.inf, 1.0)
            if kind == "gradient" or (kind == "second pass" and context.pass_name == DESCENT):
                numerator = with_nan_slope(numerator, hit)
            return output._replace(numerator=numerator)

        return plain._replace(init=init, loss=loss, after_update=lambda v, _: v.method_state + jnp.array([0, 1]))

    return make


def check(kind, step, folder, monkeypatch):
    config = small_config()
    monkeypatch.setattr(program, "make_method", breaking(kind, step))
    own = program.make_program(config, sources.load(config))
    with pytest.raises(NonFiniteError, match=rf"step {step}: .*(nan|inf)") as error:
        train(config, folder, program=own)
    assert error.value.exit_code == 5
    quantity = {"loss": "loss is inf", "gradient": "update is nan", "second pass": "update is nan"}
    assert quantity.get(kind, "loss is nan") in str(error.value)
    saved = checkpoint.available(folder / "checkpoints")
    kept = {1: [], 7: [4, 6], 8: [4, 6], 12: [6, 8]}  # saved every 4 steps, and at 6 as the best; the newest two stay
    assert saved == kept[step]
    like = jax.eval_shape(lambda: own.init(0))
    for which in saved:
        state = checkpoint.restore(checkpoint.find(folder / "checkpoints", str(which)), like)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)), which
        assert state.step == which and state.finite
    assert ("none saved yet" in str(error.value)) == (not saved)


def few(step, kind):
    return () if (kind, step) in (("pixel", 1), ("gradient", 8)) else pytest.mark.nightly


GRID = [(kind, step) for kind in ("pixel", "loss", "gradient") for step in (1, 7, 8, 12)]  # 8 and 12 are saved


@pytest.mark.faults("N1")
@pytest.mark.parametrize(("kind", "step"), [pytest.param(k, s, marks=few(s, k)) for k, s in GRID])
def test_it_ends_at_the_step_and_nothing_of_it_is_saved(kind, step, tmp_path, monkeypatch):
    check(kind, step, tmp_path / "run", monkeypatch)


@pytest.mark.faults("N2")
@pytest.mark.parametrize("kind", [pytest.param("second pass", marks=pytest.mark.nightly), "pixel on device 1"])
def test_one_pass_or_one_device_is_enough(kind, tmp_path, monkeypatch):
    assert devices.num_devices() == 8
    check(kind, 7, tmp_path / "run", monkeypatch)
