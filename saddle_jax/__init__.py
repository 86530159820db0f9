"""Long-tailed image classification with sharpness-aware minimisation, in JAX."""

__version__ = "0.1.0"
