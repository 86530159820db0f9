"""Steps that each link of an optax chain takes to leave a strict saddle, by radius. Also draws docs/escape.png.

    python benchmarks/saddle.py

The loss is f = x²/2 - y²/2 + y⁴/4. The terms in x are the loss of one class, and those in y that of a rarer one. The
saddle is at the weights (1, 1), so that noise in proportion to the weights is not 0. Every run starts on the saddle. A
step's gradient has Gaussian noise with a deviation of 0.01. The noise is the same wherever the step asks for the
gradient, like that of a minibatch. The optimizer is plain SGD with lr 0.05. A run has left the saddle when f < -1/8,
halfway to the minima. It takes seconds on a CPU. Writes benchmarks/results/saddle-<device>.json.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from saddle_jax.optim.cc_sam import cc_sam, class_gradients  # noqa: E402 (needs the path above)
from saddle_jax.optim.cnc_pgd import cnc_pgd  # noqa: E402
from saddle_jax.optim.focal_sam import focal_sam  # noqa: E402
from saddle_jax.optim.imbsam import imbsam  # noqa: E402
from saddle_jax.optim.le_sam import le_sam  # noqa: E402
from saddle_jax.optim.link import find_link_state, with_key  # noqa: E402
from saddle_jax.optim.lpf_sgd import lpf_sgd  # noqa: E402
from saddle_jax.optim.pgd import pgd  # noqa: E402
from saddle_jax.optim.sam import sam  # noqa: E402
from saddle_jax.optim.sse_sam import sse_sam  # noqa: E402

LEARNING_RATE, NOISE, LEVEL = 0.05, 0.01, -1 / 8
TAIL, COUNTS = np.array([False, True]), np.array([900, 100])
STEPS = 2000
RADII = np.geomspace(1e-3, 1, 13)  # 1 is the distance to the minima

# What the horizontal axis is: a length in the weights unless said otherwise.
LINKS: dict[str, Callable] = {
    "SGD": lambda radius: sam(0.0 * radius),
    "PGD (ball in the gradient)": pgd,
    "CNC-PGD (step / lr)": lambda radius: cnc_pgd(radius, LEARNING_RATE),
    "LPF-SGD (deviation / |w|)": lpf_sgd,
    "SAM": sam,
    "ASAM": lambda radius: sam(radius, adaptive=True),
    "ImbSAM": lambda radius: imbsam(radius, TAIL),
    "SSE-SAM, first stage": lambda radius: sse_sam(radius, radius, STEPS, TAIL),
    "Focal-SAM, γ 2, λ 0.8": lambda radius: focal_sam(radius, 2.0, 0.8, COUNTS / COUNTS.sum()),
    "LE-SAM, σ 0.1, (ρ max)": lambda radius: le_sam(0.1, radius),
    "CC-SAM (factor of the radii)": lambda radius: cc_sam(
        radius, COUNTS, lambda params: jax.tree.map(lambda _: True, params)
    ),
}


def losses(w: jax.Array) -> jax.Array:
    """Return the two classes' losses."""
    x, y = w - 1
    return jnp.array([x**2 / 2, -(y**2) / 2 + y**4 / 4])


@functools.partial(jax.jit, static_argnums=(0, 2))
def escape(make: Callable, radius: jax.Array, steps: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the step after which f is below the level (inf if never), and the gradient evaluations until then."""
    tx = optax.chain(make(radius), optax.scale(-LEARNING_RATE))

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, tuple]:
        w, state = carry
        noise = NOISE * jax.random.normal(key, (2,))

        def loss_fn(w: jax.Array, class_weights_C: jax.Array | None = None) -> tuple[jax.Array, tuple]:
            weights_C = jnp.ones(2) if class_weights_C is None else class_weights_C
            return weights_C @ (losses(w) + noise * w), ()

        def grad_fn(w: jax.Array, class_weights_C: jax.Array | None = None) -> tuple[jax.Array, tuple]:
            return jax.grad(loss_fn, has_aux=True)(w, class_weights_C)

        by_class = class_gradients(loss_fn, jnp.full(2, 0.5))
        updates, state = tx.update(grad_fn(w)[0], state, w, grad_fn=grad_fn, class_grad_fn=by_class)
        w = optax.apply_updates(w, updates)
        return (w, state), (losses(w).sum(), find_link_state(state).evaluations)

    draw_key, noise_key = jax.random.split(key)
    start = jnp.ones(2)
    state = with_key(tx.init(start), draw_key)
    _, (values, costs) = jax.lax.scan(step, (start, state), jax.random.split(noise_key, steps))
    below = values < LEVEL
    first = jnp.where(below.any(), below.argmax() + 1, jnp.inf)
    return first, jnp.where(below.any(), costs.cumsum()[below.argmax()], jnp.inf)


def times(make: Callable, radii: np.ndarray, seeds: int, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and evaluations until the saddle is left, (radii, seeds) each. All links get the same noise."""
    keys = jax.random.split(jax.random.key(0), seeds)
    by_seed = jax.vmap(lambda radius, key: escape(make, radius, steps, key), (None, 0))
    return jax.tree.map(np.asarray, jax.vmap(by_seed, (0, None))(jnp.asarray(radii), keys))


def finite(values: np.ndarray) -> list[float | None]:
    """Return numbers in JSON form, with None for those that are not finite."""
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]


def main() -> None:
    """Measure, write, and draw."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from figures import DOCS, escape_map, save
    from measure import RESULTS, write

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = {}
    with jax.enable_x64(True):
        for name, make in LINKS.items():
            steps, costs = times(make, RADII, arguments.seeds)
            rows[name] = {
                "median_steps": finite(np.median(steps, axis=1)),
                "median_evaluations": finite(np.median(costs, axis=1)),
                "left": np.isfinite(steps).mean(axis=1).tolist(),
            }
            middle = " ".join(f"{value:5.0f}" for value in np.median(steps, axis=1)[::2])
            print(f"{name:30} {middle}", flush=True)
    print(f"{'radius':30} " + " ".join(f"{radius:5.3f}" for radius in RADII[::2]))
    found = {"radii": finite(RADII), "seeds": arguments.seeds, "steps": STEPS, "links": rows}
    save(escape_map(found), DOCS / "escape.png")
    write("saddle", jax.devices()[0].device_kind, ("jax", "optax"), found, arguments.output)


if __name__ == "__main__":
    main()
