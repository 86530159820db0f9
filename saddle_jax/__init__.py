"""Long-tailed image classification with sharpness-aware minimisation, in JAX."""

from saddle_jax.host import xla

__version__ = "0.1.0"

xla.prepare()  # before JAX reads its flags
