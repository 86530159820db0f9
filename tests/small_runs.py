"""A run of seconds on digits, for every test that needs a whole one."""

import pathlib

from configs import digits_lt
from saddle_jax import methods
from saddle_jax.data import sources
from saddle_jax.training import loop
from saddle_jax.training.program import make_program

# Fields of a small run with each method there is, for batches of 32: what it asks for beside the defaults.
_FIELDS = {
    "plain": {},
    "glmc": {"glmc.resample_power": 0.2, "glmc.projection_dim": 8},
    "paco": {"paco.queue_size": 64, "paco.dim": 8, "paco.momentum": 0.9, "paco.key_augmentation": "crop_flip"},
    "retrain": {"data.sampling": "balanced"},
}
METHODS = {
    name: {"method": name, **fields}
    for name, fields in _FIELDS.items()
    if (pathlib.Path(methods.__path__[0]) / f"{name}.py").is_file()
}


def small_config(method="ce_drw_sam", **changes):
    """Return a config of 12 steps; `data__ratio=4` changes data.ratio."""
    config = digits_lt.get_config(f"{method},smoke")
    config.duration, config.eval.every, config.checkpoint_every = "12 steps", "6 steps", "4 steps"
    config.log_every = "3 steps"
    config.tensorboard = False
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def train(config, workdir):
    """Train in this process; return the reports."""
    splits = sources.load(config)
    return loop.train(config, pathlib.Path(workdir), splits, make_program(config, splits), ["test"], quiet=True)
