"""The entries of the catalogue: all that an experiment can name, and what belongs to it. Needs no JAX.

A user's own entry is one of these, too, in a module outside this package; `docs/extending.md` shows how.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from saddle_jax.experiment.fields import Field

Values = Mapping[str, Any]  # "group.field" -> value


def resolve(name: str) -> Callable[..., Any]:
    """Import and return the function that "package.module:function" names."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


@dataclasses.dataclass(frozen=True)
class Entry:
    """Something that an experiment names: how to build it, the fields that it owns, what it requires of other fields.

    Args:
      summary: what it is, in a sentence without a period.
      make: the function that builds it, or "package.module:function", which is imported when it is needed.
      fields: its own fields, by name; in a config they are `config.<name of the entry>.<field>`.
      paper: where it was published.
      settings: values of any fields that a recipe sets together with it, by full name.
      requires: the only value that it allows for a field, and why, by full name.
      problems: functions that yield what does not fit together, given the values of all fields. A function that reads a
        field whose value is wrong by itself is skipped.
      reads: fields of other entries that take effect with this one, by full name.
      title: its name in tables and figures. A report does not import users' code, so their entries keep their names.
    """

    summary: str
    make: Callable[..., Any] | str
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    paper: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    requires: Mapping[str, tuple[Any, str]] = dataclasses.field(default_factory=dict)
    problems: tuple[Callable[[Values], Iterator[str]], ...] = ()
    reads: tuple[str, ...] = ()
    title: str = ""

    choice: ClassVar[str]  # the field that names an entry of this kind

    def maker(self) -> Callable[..., Any]:
        """Return the function that builds it; import it if necessary."""
        return resolve(self.make) if isinstance(self.make, str) else self.make


@dataclasses.dataclass(frozen=True)
class Loss(Entry):
    """A loss. make(fields, stats, scale) -> (logits_BC, labels_B) -> losses_B.

    `fields` are the values of its own fields, `stats` the ClassStats of the training images. `scale` is the factor on a
    normed head's cosines; with a linear head it is 1.

    Args:
      adjusts_logits: whether it adds the log of the prior to the logits, so that adjusting them again may overshoot.
    """

    adjusts_logits: bool = False

    choice: ClassVar[str] = "loss.name"


@dataclasses.dataclass(frozen=True)
class Link(Entry):
    """A link of the optimizer's chain. make(fields, context) -> optax.GradientTransformationExtraArgs.

    See `saddle_jax.optim.link` for the context, and for `make_link`, which does what links have in common.

    Args:
      size: name of the field that is the size of its perturbation, a schedule.
      ascends: whether the gradient at w serves only as a direction, so that a method may use another loss for it.
    """

    size: str = ""
    ascends: bool = False

    choice: ClassVar[str] = "optim.name"


@dataclasses.dataclass(frozen=True)
class Method(Entry):
    """A method. make(config, stats, image_shape, axis_name, schedules) -> saddle_jax.methods.base.Method.

    Its own fields are in `config.<name of the entry>`. `image_shape` is (height, width, channels).

    Args:
      adjusts_logits: see `Loss`.
    """

    adjusts_logits: bool = False

    choice: ClassVar[str] = "method"


@dataclasses.dataclass(frozen=True)
class Network(Entry):
    """A network. make(fields, model, num_classes, axis_name) -> saddle_jax.models.base.Network.

    `model` is config.model; `axis_name` is the axis of the devices, for modules that compute over the whole batch.

    Args:
      adapters: whether its blocks take the layers that `model.train` = lora and adaptformer add.
      torch_head: name of the classifier in the PyTorch network whose other names are the same; "" if there is none.
    """

    adapters: bool = False
    torch_head: str = ""

    choice: ClassVar[str] = "model.name"


@dataclasses.dataclass(frozen=True)
class Source(Entry):
    """A source of images. make(fields, data) -> saddle_jax.data.sources.Source; `data` is config.data.

    Args:
      encoded: whether its images stay encoded until a batch asks for them; None: if the augmentation needs that.
      fit: "package.module:function" (config, given) -> notes, for `data.fit_to_images`: it looks at the images, sets
        the fields that the user has not given, and says what it chose.
    """

    encoded: bool | None = False
    fit: str = ""

    choice: ClassVar[str] = "data.source"
