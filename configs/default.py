"""The default of every field. Experiment files only state differences. `saddle-jax --help FIELD` explains a field.

Write durations and positions as "200 epochs", "3000 steps", or "80%" of the run. A schedule is a number, or ((position,
value), ...), where a bare number as a position counts epochs.
"""

from ml_collections import ConfigDict

from saddle_jax.experiment.schema import default_config


def get_config() -> ConfigDict:
    """Return the default of every field."""
    return default_config()
