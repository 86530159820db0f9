"""PaCo and PaCo with SAM: the loss to the authors' figures, the queue, the key encoder, one device and eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN

from configs import default
from saddle_jax.methods import paco


def paco_fields(**changes):
    fields = default.get_config().paco
    fields.update(changes)
    return fields


CASES = [(0.01, 0.05), (0.02, 0.05), (0.05, 0.2)]


@pytest.fixture
def golden(x64):
    with np.load(GOLDEN / "paco_loss.npz") as store:
        return {name: store[name] for name in store}


def golden_loss(golden, fields, logits, rows, labels):
    """Return the mean loss of the 16 queries, which are the first rows."""
    priors = golden["counts"] / golden["counts"].sum()
    queries = slice(0, int(golden["batch_size"]))
    parts = paco.contrast(
        logits + np.log(priors + 1e-9),
        rows[queries],
        labels[queries],
        rows,
        labels,
        jnp.arange(queries.stop),
        fields,
    )
    return jnp.mean(parts.class_loss_B + parts.contrast_B)


@pytest.mark.parametrize(("alpha", "temperature"), CASES)
def test_the_loss_is_the_published_one(golden, alpha, temperature):
    fields = paco_fields(alpha=alpha, temperature=temperature)
    labels = jnp.asarray(golden["labels"])
    loss = jax.value_and_grad(lambda logits, rows: golden_loss(golden, fields, logits, rows, labels), argnums=(0, 1))
    value, (of_logits, of_rows) = loss(jnp.asarray(golden["sup_logits"]), jnp.asarray(golden["features"]))
    case = f"alpha{alpha}_beta1.0_gamma1.0_T{temperature}"
    np.testing.assert_allclose(value, golden[f"{case}/loss"], rtol=1e-12)
    np.testing.assert_allclose(of_logits, golden[f"{case}/grad_logits"], atol=1e-12)
    np.testing.assert_allclose(of_rows, golden[f"{case}/grad_features"], atol=1e-12)
