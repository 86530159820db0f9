"""Convolutions and batch normalization for JAX on CPUs: oneDNN and hand-written C++ behind `jax.ffi`.

`conv` can be used anywhere in JAX code; its derivatives of any order, batching and fallbacks are built in.
`norm_forward` and `norm_backward` are bare CPU kernels, for callers who have the formulas for everything else.
"""

from saddle_kernels.conv import conv
from saddle_kernels.library import load
from saddle_kernels.norm import norm_backward, norm_forward

__version__ = "0.1.0"
__all__ = ["conv", "load", "norm_backward", "norm_forward"]
