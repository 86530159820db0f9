"""Fields of the loss, the optimizer, and evaluation: `config.loss`, `config.optim`, `config.eval`."""

from __future__ import annotations

from collections.abc import Iterator

from saddle_jax.experiment.catalogue import ENTRIES, WEIGHTINGS
from saddle_jax.experiment.fields import (
    Field,
    choice,
    entry_name,
    interpolation,
    is_numbers,
    items,
    length,
    number,
    position,
    schedule,
)

_WEIGHTS_EXAMPLE = "(('cat', 2.0), ('dog', 0.5)), or (('cat', 2.0),) for one class"


def _weight_problems(value: tuple) -> Iterator[str]:
    names: set[str] = set()
    for pair in value:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            yield f"found {pair!r}, expected (class name, weight) pairs such as {_WEIGHTS_EXAMPLE}"
        elif not (is_numbers(pair[1:]) and pair[1] > 0):
            yield f"found weight {pair[1]!r} of class {pair[0]!r}, expected a number above 0"
        elif pair[0] in names:
            yield f"class {pair[0]!r} is named twice, expected once"
        else:
            names.add(pair[0])


LOSS = {
    "name": entry_name("ce", "the loss of an example", ENTRIES["loss.name"]),
    "class_weights": choice(
        "none",
        "weights of the classes in the mean loss",
        {name: weighting.summary for name, weighting in WEIGHTINGS.items()},
    ),
    "custom_weights": Field(
        (),
        f"your own class weights by class name, such as {_WEIGHTS_EXAMPLE}; classes that are not named weigh 1. Only "
        "ratios count, since the mean divides by the sum of weights",
        "a tuple of (class name, weight above 0) pairs",
        _weight_problems,
    ),
    "drw_start": position("80%", "position from which deferred class weights act"),
    "effective_beta": number(
        0.9999, "beta of the effective number of n images, (1 - beta^n) / (1 - beta)", at_least=0, less_than=1
    ),
    "logit_scale": number(30.0, "factor by which the loss multiplies a normed head's cosines", more_than=0),
}

OPTIM = {
    "name": entry_name(
        "sgd", "the link that gradients pass through before weight decay and momentum", ENTRIES["optim.name"]
    ),
    "base": choice(
        "sgd",
        "the optimizer after the link",
        {"sgd": "momentum, as in the reference", "adamw": "AdamW (Loshchilov and Hutter, ICLR 2019)"},
    ),
    "momentum": number(0.9, "momentum of SGD, or AdamW's beta 1", at_least=0, less_than=1),
    "weight_decay": number(
        2e-4,
        "weight decay of all trained parameters, as in the reference (the code of the paper's authors); AdamW's is "
        "decoupled from the gradient",
        at_least=0,
    ),
    "clip_norm": number(
        0.0, "length to which longer gradients are clipped, after the link", more_than=0, zero="for no clipping"
    ),
    "layer_decay": number(
        1.0,
        "factor on the learning rate from each block to the one before it, so that the first blocks move least",
        more_than=0,
        at_most=1,
    ),
    "ema_decay": number(
        0.0,
        "decay of the weights' exponential moving average, which is evaluated and used in place of the weights",
        more_than=0,
        less_than=1,
        zero="for no average",
    ),
    "lr": schedule(0.1, "learning rate", of="learning rate"),
    "lr_interpolation": interpolation(),
    "batch_stats": choice(
        "both",
        "passes of a step that update BatchNorm's running statistics",
        {
            "first": "the one at the current weights w",
            "second": "the last one that the link asks for",
            "both": "one after the other, as in the reference",
            "frozen": "none",
        },
    ),
}

EVAL = {
    "every": length("5 epochs", "how often the state is evaluated", may_change=True),
    "batch_size": number(500, "images in a batch, over all devices together", at_least=1, may_change=True),
    "rank_bounds": items(
        (),
        "a and b: of C classes, ranked by falling size from 0, head is [0, a), mid is [a, b), and tail is [b, C); "
        "() means 30% and 70% of C",
        expected="() or two rising class ranks such as (3, 7)",
        is_sound=lambda value: (
            len(value) in (0, 2)
            and all(isinstance(bound, int) and bound > 0 for bound in value)
            and list(value) == sorted(value)
        ),
    ),
}
