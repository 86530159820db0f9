"""The augmentations of training images. Needs no JAX."""

from __future__ import annotations

from saddle_jax.experiment.catalogue.entry import Values

AUGMENTATIONS = {
    "crop_flip": "crop of the padded image, mirror",
    "autoaugment": "crop_flip, CIFAR's AutoAugment policy, Cutout of 16 pixels",
    "randaugment": "the usual crop, mirror, and jitter, then 2 operations at magnitude 10",
    "simclr": "resized crop of 20% to 100%, mirror, color jitter, gray, blur",
    "random_resized_crop": "resized crop of 8% to 100%, mirror, jitter; for images that are files or records",
}
ON_HOST = ("autoaugment", "randaugment", "simclr")  # policies, which run in Pillow
IN_MEMORY_ONLY = ("crop_flip", "autoaugment")
ENCODED_ONLY = ("random_resized_crop",)


def needs_host(values: Values) -> bool:
    """Return whether a view is augmented with Pillow on the host instead of inside the step."""
    return not set(ON_HOST).isdisjoint(view_augmentations(values).values())


def view_augmentations(values: Values) -> dict[str, str]:
    """Return {field: augmentation} for the fields that name the augmentations of the method's views."""
    fields = ("data.augmentation", f"{values['method']}.key_augmentation")
    return {field: values[field] for field in fields if field in values}
