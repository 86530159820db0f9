"""All that a run continues from."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class TrainState(NamedTuple):
    """The same on every device; saved whole, restored whole."""

    step: jax.Array  # (), int32: steps taken
    params: Any
    batch_stats: Any
    opt_state: Any
    method_state: Any
