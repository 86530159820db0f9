"""Small modules inside the blocks of a transformer that are trained in place of its own weights.

A new one adds exactly 0, so the network starts as it was. Their parameters are under the names in `ADAPTERS`.
Initial weights and scales are those of LIFT's code (Shi et al., Long-Tail Learning with Foundation Model: Heavy
Fine-Tuning Hurts, ICML 2024). Shapes: B images, T tokens, D features, R rank.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from saddle_jax.models.base import Params

# model.train -> the names of the modules: LoRA's beside the queries and the values, AdaptFormer's beside the MLP.
ADAPTERS = {"lora": ("lora_q", "lora_v"), "adaptformer": ("adapter",)}


class LoRA(nn.Module):
    """The low-rank update x·A·B / R of a matrix (Hu et al., LoRA, ICLR 2022, equation 3). B starts at 0."""

    rank: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Return what to add to the matrix's product with x, (B, T, D)."""
        features, dtype = x_BTD.shape[-1], jnp.result_type(float)
        # U(-1, 1) / sqrt(R): LIFT stores A as (D, R), so PyTorch's Kaiming initialization takes R for the fan-in.
        first = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        a_DR = self.param("a", first, (features, self.rank), dtype)
        b_RD = self.param("b", nn.initializers.zeros, (self.rank, features), dtype)
        x_BTD, a_DR, b_RD = promote_dtype(x_BTD, a_DR, b_RD, dtype=self.dtype)
        return x_BTD @ a_DR @ b_RD / self.rank


class AdaptFormer(nn.Module):
    """Two layers with a learned scale (Chen et al., AdaptFormer, NeurIPS 2022). The second one starts at 0."""

    rank: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Return scale * up(relu(down(norm(x)))), to add to what the block's two layers return."""
        fields = {"dtype": self.dtype, "param_dtype": jnp.result_type(float)}
        # PyTorch's kaiming_normal_ with a = sqrt(5).
        first = nn.initializers.variance_scaling(1 / 3, "fan_in", "normal")
        y = nn.LayerNorm(1e-5, use_fast_variance=False, name="norm", **fields)(x_BTD)
        y = nn.relu(nn.Dense(self.rank, kernel_init=first, name="down", **fields)(y))
        y = nn.Dense(x_BTD.shape[-1], kernel_init=nn.initializers.zeros, name="up", **fields)(y)
        return y * self.param("scale", nn.initializers.ones, (1,), fields["param_dtype"]).astype(y.dtype)


def rank_of(num_classes: int, layers: int) -> int:
    """Return LIFT's rank, 2^floor(log2(classes / (2 layers))), at least 1: 4 for 100 classes and 12 layers."""
    return 1 << (max(1, num_classes // (2 * layers)).bit_length() - 1)


def merged(params: Params) -> Params:
    """Return parameters without LoRA's that compute the same: each update is added to its part of `qkv`.

    Raises:
      ValueError: there are parameters of AdaptFormer. No weights of the block compute what it adds.
    """
    if "adapter" in params:
        raise ValueError(
            "AdaptFormer can't be merged into a network's own weights: it has a nonlinearity of its own. "
            "Fix: keep its parameters, or train with LoRA"
        )
    result = {name: merged(part) if isinstance(part, dict) else part for name, part in params.items()}
    if "lora_q" in params:
        lora_q, lora_v, kernel = result.pop("lora_q"), result.pop("lora_v"), jnp.asarray(params["qkv"]["kernel"])
        updates = [lora["a"] @ lora["b"] / lora["a"].shape[1] for lora in (lora_q, lora_v)]
        zero = jnp.zeros_like(updates[0])  # the keys have no update
        result["qkv"] = {**params["qkv"], "kernel": kernel + jnp.concatenate([updates[0], zero, updates[1]], 1)}
    return result
