"""A run of seconds on digits, for every test that needs a whole one."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from configs import digits_lt
from saddle_jax import methods
from saddle_jax.data import sources
from saddle_jax.experiment import config as config_lib
from saddle_jax.training import loop
from saddle_jax.training.program import make_program
from saddle_jax.weights import names

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
# What is compiled does not depend on these.
_BESIDES = {"seed": 0, "num_seeds": 1, "seeds_at_once": 0, "name": "", "start_from": "", "tensorboard": False}
_BESIDES |= {"tracker": "none", "log_every": "1 steps", "checkpoint_every": "1 steps", "eval.every": "1 steps"}
_BESIDES |= {"data.pipeline": "auto"}
_PROGRAMS = {}


def small_config(recipe="ce_drw_sam", /, **changes):
    """Return a config of 12 steps; `data__ratio=4` changes data.ratio."""
    config = digits_lt.get_config(f"{recipe},smoke")
    config.duration, config.eval.every, config.checkpoint_every = "12 steps", "6 steps", "4 steps"
    config.log_every = "3 steps"
    config.tensorboard = False
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def write_weights(path):
    """Write a file as torchvision's: the network of the small config, with another classifier."""
    config = small_config()
    program = make_program(config, sources.load(config))
    state = jax.device_get(program.init(7))
    tensors = names.to_torch(state.params, state.model_state, head="fc", steps=0)
    # Running statistics that no new network has.
    tensors = {name: x + 0.25 if name.endswith("running_mean") else x for name, x in tensors.items()}
    tensors["fc.weight"], tensors["fc.bias"] = np.ones((1000, 16), np.float32), np.ones(1000, np.float32)
    safetensors.numpy.save_file(tensors, path)
    return path


def program_of(config, splits):
    """Return the program of runs that differ only in what it does not depend on; they share all that is compiled."""
    alike = config.copy_and_resolve_references()
    alike.update_from_flattened_dict(_BESIDES)
    key = config_lib.to_json(alike), jnp.result_type(float), splits.split_hash, splits.content_hash
    if key not in _PROGRAMS:
        _PROGRAMS[key] = make_program(config, splits)
    return _PROGRAMS[key]


def train(config, workdir, *, program=None, quiet=True):
    """Train in this process; return the reports."""
    splits = sources.load(config)
    program = program or program_of(config, splits)
    return loop.train(config, pathlib.Path(workdir), splits, program, ["test"], quiet=quiet)
