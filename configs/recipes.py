"""Shared parts of the experiment files: methods by name, arguments after the colon, and the smoke version.

`--config configs/cifar10_lt.py:vs_sam,ratio=50` passes the argument "vs_sam,ratio=50" to the file. The parts of an
argument are separated by commas, in any order: a method (`<loss>` or `<loss>_<link>`), `ratio=`, `profile=`, `epochs=`,
and `smoke`. All are optional.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.arguments import Options, parse_argument
from saddle_jax.experiment.catalogue import ENTRIES, find, images_stay_encoded
from saddle_jax.experiment.config import rescale_to_percent
from saddle_jax.experiment.durations import parse_duration

LOSSES = {
    "ce": {"name": "ce"},
    "ce_reweight": {"name": "ce", "class_weights": "reweight"},
    "ce_drw": {"name": "ce", "class_weights": "drw"},
    "ldam_drw": {"name": "ldam", "class_weights": "drw"},
    "vs": {"name": "vs"},
    "vs_drw": {"name": "vs", "class_weights": "drw"},
    "cdt": {"name": "cdt"},
    "la": {"name": "la"},
    "focal": {"name": "focal"},
}
LINKS = tuple(ENTRIES["optim.name"])

Knots = tuple[tuple[int | str, float], ...]
Settings = Mapping[str, Mapping[str, Any]]  # name of a loss or a link -> full name of a field -> value


def with_links(bases: Iterable[str], links: Iterable[str] = LINKS) -> dict[str, tuple[str, str]]:
    """Return {"ce": ("ce", "sgd"), "ce_sgd": ("ce", "sgd"), "ce_sam": ("ce", "sam"), ...}, by what users may write."""
    links = tuple(links)
    return {
        f"{base}{suffix}": (base, suffix[1:] or "sgd") for base in bases for suffix in ("", *(f"_{k}" for k in links))
    }


METHODS = with_links(LOSSES)


def apply(
    config: ConfigDict,
    argument: str,
    *,
    default_method: str,
    rho: Mapping[str, float | Knots],
    settings: Settings | None = None,
) -> ConfigDict:
    """Set the method, ratio, and profile from `argument`, and shrink the run if it asks for `smoke`.

    Args:
      config: the experiment's own settings; changed in place.
      argument: the text after the colon of --config.
      default_method: the method if the argument names none.
      rho: SAM's radius, or its knots, for every loss in LOSSES.
      settings: the experiment's own settings for losses and links.

    Raises:
      ConfigError: reports everything that is wrong with the argument.
    """
    options = parse_argument(argument, METHODS, shown=shown_methods(LOSSES))
    loss, link = METHODS[options.method or default_method]
    set_method(config, loss, link, rho[loss], settings)
    return finish(config, options, name_of(loss, link))


def set_method(config: ConfigDict, loss: str, link: str, rho: float | Knots, settings: Settings | None = None) -> None:
    """Set the loss, the head that it needs, and the link, each with its settings. `rho` is SAM's radius."""
    config.loss.update(LOSSES[loss])
    if config.loss.name == "ldam":
        config.model.head = "normed"
    config.update_from_flattened_dict((settings or {}).get(config.loss.name, {}))
    set_link(config, link, rho, settings)


def one_method(config: ConfigDict, argument: str, rho: float | Knots, settings: Settings | None = None) -> ConfigDict:
    """Apply `argument` to an experiment with one method: `<method>` or `<method>_<link>`, by default with SAM.

    Arguments and errors are those of `apply`.
    """
    methods = with_links([config.method])
    options = parse_argument(argument, methods, shown=shown_methods([config.method], LINKS_OF_METHODS))
    method, link = methods[options.method or f"{config.method}_sam"]
    set_link(config, link, rho, settings)
    return finish(config, options, name_of(method, link))


LINKS_OF_METHODS = tuple(
    link for link in LINKS if link != "cc_sam"
)  # CC-SAM splits the loss by the class of each image


def shown_methods(bases: Iterable[str], links: Iterable[str] = LINKS) -> str:
    """Return the methods that a user may write, as text for a message."""
    return f"{', '.join(bases)} (each also with {' '.join(f'_{link}' for link in links)})"


def name_of(base: str, link: str) -> str:
    """Return the part of a run's name that names its method."""
    return base if link == "sgd" else f"{base}_{link}"


def set_link(config: ConfigDict, link: str, rho: float | Knots, settings: Settings | None = None) -> None:
    """Set the link, its settings, and the experiment's own settings for it. `rho` is SAM's radius.

    SGD runs get that radius too, so that their spectra show what SAM would do.
    """
    config.optim.name = link
    if link in ("sgd", "sam"):
        config.sam.rho = rho if isinstance(rho, tuple) else (rho,)
    config.update_from_flattened_dict({**find("optim.name", link).settings, **(settings or {}).get(link, {})})


def finish(config: ConfigDict, options: Options, method: str, *, ratio_has_settings: bool = False) -> ConfigDict:
    """Set the ratio, profile, and name. Stretch the run to `epochs`, or shrink it if `options` ask for `smoke`.

    Positions given in epochs scale with the length of the run.

    Args:
      config: the experiment's own settings, including the method's; changed in place.
      options: what the argument asks for.
      method: the part of the run's name that names the method.
      ratio_has_settings: the experiment has settings for each ratio, so a ratio may be named even for images used as
        they are.

    Raises:
      ConfigError: the options contradict each other.
    """
    if options.ratio is not None:
        config.data.ratio = options.ratio
    if options.profile is not None:
        config.data.profile = options.profile
    if config.data.profile == "as_is":
        config.data.largest_class = 0
        if options.ratio is not None and not ratio_has_settings:
            raise ConfigError(
                f"config argument: ratio={options.ratio:g} has no effect with profile=as_is. Fix: drop one"
            )
    if options.epochs and options.smoke:
        raise ConfigError(f"config argument: epochs={options.epochs} has no effect with smoke. Fix: drop one")
    own = parse_duration(config.duration)
    if options.epochs and own.unit != "epochs":
        raise ConfigError(f"config argument: epochs={options.epochs} can't stretch a run of {config.duration}")
    longer = options.epochs if options.epochs != own.amount else None
    if longer:
        rescale_to_percent(config)
        config.duration = f"{longer} epochs"
    if options.smoke:
        shrink(config)
    imbalance = "" if config.data.profile == "as_is" else f"{config.data.ratio:g}"
    epochs = f"-{longer}epochs" if longer else ""
    config.name = f"{config.name}-{method}-{config.data.profile}{imbalance}{epochs}"
    return config


def shrink(config: ConfigDict) -> None:
    """Make `config` run in about a minute on two cores without any data. The loss, head, SAM, and schedules stay.

    The ratio is at most 100, because the digits have only 114 images per class.
    """
    rescale_to_percent(config)
    config.name = f"{config.name}-smoke"
    config.data.ratio = min(config.data.ratio, 100.0)
    config.duration = "60 steps"
    config.batch_size = 32
    data = config.data
    data.fit_to_images, data.max_bad_fraction = False, 0.0
    if images_stay_encoded(data.source, data.augmentation, data.eval_resize):
        # A large set is used as it is, but the digits as they are would be balanced.
        config.data.profile = "exp" if config.data.profile == "as_is" else config.data.profile
        config.data.pipeline, config.data.validation_split = "auto", ""
        config.data.image_size, config.data.eval_resize, config.data.color_jitter = 0, 0, 0.0
    config.data.augmentation = "crop_flip"  # the digits are 8 x 8 grayscale images
    if config.method == "paco":
        config.paco.key_augmentation, config.paco.queue_size = "crop_flip", 128
    config.data.source = "digits"
    config.data.largest_class = 0
    config.data.crop_padding = min(config.data.crop_padding, 1)
    config.data.mean, config.data.std = (0.3,), (0.35,)
    config.model.name = "resnet8"
    config.model.width = 0.25
    config.model.update(weights="", train="all", cache_views=0, input_size=0)
    config.eval.every = "30 steps"
    config.eval.rank_bounds = ()
    config.checkpoint_every = "30 steps"
    config.log_every = "10 steps"
