"""The methods that an experiment can name: what is minimized. Each is in `saddle_jax.methods`, under its name."""

from __future__ import annotations

from collections.abc import Iterator

from saddle_jax.experiment.catalogue.augmentations import AUGMENTATIONS, ENCODED_ONLY, IN_MEMORY_ONLY
from saddle_jax.experiment.catalogue.entry import Method, Values
from saddle_jax.experiment.catalogue.sources import images_stay_encoded
from saddle_jax.experiment.fields import choice, flag, number


def _retrain_problems(values: Values) -> Iterator[str]:
    if not values["start_from"]:
        yield (
            "method='retrain' trains the classifier of a network that is already trained, but start_from names none. "
            "Fix: --config.start_from=DIRECTORY of that run"
        )


def _queue_problems(values: Values) -> Iterator[str]:
    queue, batch = values["paco.queue_size"], values["batch_size"]
    if queue % batch:
        yield (
            f"paco.queue_size: found {queue}, expected a multiple of batch_size={batch}, since each batch replaces "
            f"that many keys. Fix: --config.paco.queue_size={-(-queue // batch) * batch}"
        )


def _key_problems(values: Values) -> Iterator[str]:
    key = values["paco.key_augmentation"]
    encoded = images_stay_encoded(values["data.source"], values["data.augmentation"], values["data.eval_resize"])
    if key in (IN_MEMORY_ONLY if encoded else ENCODED_ONLY):
        fits, found = ("in memory", "stay encoded") if encoded else ("that stay encoded", "are in memory")
        yield (
            f"paco.key_augmentation={key!r} is for images {fits}, but these {found}. "
            "Fix: --config.paco.key_augmentation=simclr"
        )


def _perturbation_problems(values: Values) -> Iterator[str]:
    for link in ("sam", "asam"):
        if values["optim.name"] == link and values[f"{link}.perturbation"] != "shared":
            yield (
                f"{link}.perturbation={values[f'{link}.perturbation']!r} does not go with method='paco', which "
                f"compares every query with the keys of all devices. Fix: --config.{link}.perturbation=shared"
            )


def _cutmix_problems(values: Values) -> Iterator[str]:
    if values["plain.cutmix"] and values["model.cache_views"]:
        yield (
            "plain.cutmix cuts boxes out of images, and model.cache_views keeps their features only. "
            "Fix: --config.plain.cutmix=0, or --config.plain.mixup=0.2"
        )


METHODS = {
    "plain": Method(
        "one network, one loss, one view of each image",
        "saddle_jax.methods.plain:make",
        fields={
            "mixup": number(
                0.0,
                "alpha of Mixup: images and their losses are mixed by a share drawn from Beta(alpha, alpha)",
                more_than=0,
                zero="for no Mixup",
            ),
            "cutmix": number(
                0.0,
                "alpha of CutMix: a box of another image covers a share drawn from Beta(alpha, alpha); with mixup, in "
                "every second batch",
                more_than=0,
                zero="for no CutMix",
            ),
            "label_smoothing": number(
                0.0,
                "share of the loss that is the mean of the losses with every label instead of the image's own",
                at_least=0,
                less_than=1,
            ),
        },
        problems=(_cutmix_problems,),
    ),
    "glmc": Method(
        "GLMC: two mixed views of each image, a second classifier for re-weighted classes, and a contrastive term",
        "saddle_jax.methods.glmc:make",
        fields={
            "resample_power": number(
                0.0,
                "r: the second stream draws an image in proportion to n^-r, where n is the size of its class",
                at_least=0,
            ),
            "label_weight_power": number(
                1.0, "l: the second classifier's labels are weighted in proportion to n^-l", at_least=0
            ),
            "contrast": number(4.0, "kappa, the factor on the contrastive term", at_least=0),
            "projection_dim": number(128, "dimensions of the vectors that the contrastive term compares", at_least=1),
            "beta": number(1.0, "b: the share of the first stream in a mixture is drawn from Beta(b, b)", more_than=0),
            "contrast_in_ascent": flag(False, "let SAM also perturb along the contrastive term"),
            "area_corrected": flag(False, "let CutMix's labels follow the pasted area, not the drawn share"),
        },
        paper="Du et al., Global and Local Mixture Consistency Cumulative Learning, CVPR 2023",
        requires={
            "loss.name": ("ce", "it mixes labels"),
            "loss.class_weights": ("none", "glmc.label_weight_power weights its second classifier"),
            "model.head": ("linear", "its heads are linear"),
            "data.sampling": ("instance", "glmc.resample_power re-samples its second stream"),
        },
        title="GLMC",
    ),
    "paco": Method(
        "PaCo: parametric contrastive learning with a momentum encoder and a queue of keys",
        "saddle_jax.methods.paco:make",
        fields={
            "alpha": number(0.05, "weight of each image of the query's class among its positives", at_least=0),
            "beta": number(1.0, "weight of the query's class among its positives", more_than=0),
            "gamma": number(1.0, "weight of all other images in the denominator", at_least=0),
            "temperature": number(
                0.2, "divides the similarities of images, which are cosines, but not the logits of classes", more_than=0
            ),
            "queue_size": number(
                8192,
                "keys of earlier steps to compare queries with; a multiple of batch_size",
                at_least=1,
                unit="keys",
            ),
            "dim": number(128, "dimensions of the vectors that are compared", at_least=1),
            "momentum": number(
                0.999,
                "part of the key encoder that a step keeps; the rest is the query's",
                at_least=0,
                at_most=1,
            ),
            "key_augmentation": choice(
                "simclr", "augmentation of the keys; data.augmentation is the query's", AUGMENTATIONS
            ),
            "queue_init": choice(
                "normalized",
                "which vectors of the initial random queue have length 1",
                {"normalized": "each key", "published": "each column of the queue, as in the authors' code"},
            ),
        },
        paper="Cui et al., Parametric Contrastive Learning, ICCV 2021",
        requires={
            "loss.name": ("ce", "its loss has a class part of its own"),
            "loss.class_weights": ("none", "the prior is in its logits"),
            "model.head": ("linear", "its class head is linear"),
            "micro_batches": (1, "every query is compared with the whole batch"),
        },
        problems=(_queue_problems, _key_problems, _perturbation_problems),
        adjusts_logits=True,
        title="PaCo",
    ),
    "retrain": Method(
        "CC-SAM's second stage: train only the classifier of the network of start_from",
        "saddle_jax.methods.retrain:make",
        fields={
            "feature_noise": number(
                1.0,
                "length of the perturbation of a class's features, times the class's weight log(n_max / n + 0.01) / 2",
                at_least=0,
            ),
            "flat_limit": number(
                1.0,
                "upper limit on the share of the loss at perturbed features, which is weighted by class; the share "
                "rises from 0 to 1 over the run, and a limit of 0 is re-training on class-balanced draws alone",
                at_least=0,
                at_most=1,
            ),
        },
        paper="Zhou et al., Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed Recognition, CVPR 2023",
        requires={
            "data.sampling": ("balanced", "it draws all classes equally often"),
            "micro_batches": (1, "the perturbation of a class is that of all its images in the batch"),
        },
        problems=(_retrain_problems,),
        title="Re-training",
    ),
}
