"""docs/recipes.md: each recipe with its command, its published accuracy, and ours, from the files in results/.

python benchmarks/recipes.py        # writes the page
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import cifar_rows  # noqa: E402 (needs the path above)
from published import CIFAR_LT, LARGE, PRETRAINED, PUBLISHED, Cell  # noqa: E402

from benchmarks import pretrained  # noqa: E402
from benchmarks.links_rows import ROWS  # noqa: E402
from saddle_jax.report import tables  # noqa: E402

PAGE = ROOT / "docs/recipes.md"
RESULTS = ROOT / "benchmarks/results"
LOSSES = ("ce", "ce_drw", "ldam_drw", "vs")
LINKS = tuple(row.link for name, row in ROWS.items() if name in ("sgd", row.link))
NONE = "–"
_START = """# Recipes: published and measured

These tables say for each recipe what others have published and what we have measured with this code.
`python benchmarks/recipes.py` writes them from the files in `benchmarks/results/`.

- Train a row with `saddle-jax --config` and the text of its first column.
- Figures are test accuracy in percent. "–" means that there is no figure: nobody has published it, or we have not run
  it. A figure of ours is mean ± standard deviation, with the number of seeds in parentheses.
- Compare only within a column: networks, images, and pretraining differ between columns and tables.
- Published figures, and ours on CIFAR-LT, are those of the best test epoch. Ours on the digits are those of the last
  epoch. [results.md](results.md) names the sources, and says which differences are outside the noise.
"""


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_START, *_losses_and_links(), *_methods(), *_large(), *_pretrained()]).rstrip() + "\n"


def _losses_and_links() -> Iterator[str]:
    """Yield the table of losses with links: CIFAR-LT at ratio 100, and the digits."""
    yield "## Losses and links\n"
    yield "CIFAR-LT has ratio 100 and ResNet-32, the digits have ratio 50 and ResNet-8. A cell holds overall accuracy,"
    yield "and behind the slash that of the tail. For FILE, write `cifar10_lt`, `cifar100_lt`, or `digits_lt`.\n"
    runs = _read("links-digits")["runs"]
    yield from _head("recipe", "CIFAR-10-LT, published", "ours", "CIFAR-100-LT, published", "ours", "digits, ours")
    for loss in LOSSES:
        for link in LINKS:
            method = loss if link == "sgd" else f"{loss}_{link}"
            cells = []
            for data in ("cifar10", "cifar100"):
                cell = Cell(data, 100, method)
                cells += [_both(PUBLISHED.get(cell, {})), _ours(cell)]
            cells.append(_of_seeds(list(runs.get(loss, {}).get(link, {}).values())))
            if set(cells) != {NONE}:
                yield _row(f"`FILE:{method}`", *cells)
    yield ""


def _methods() -> Iterator[str]:
    """Yield the table of all other published cells of CIFAR-LT."""
    yield "## Methods and other ratios on CIFAR-LT\n"
    yield from _head("`--config`", "network and recipe", "published", "ours")
    for cell in CIFAR_LT:
        if cell in PUBLISHED and not (cell.ratio == 100 and cell.recipe == "ResNet-32"):
            yield _row(f"`{cell.config()}`", cell.recipe, _both(PUBLISHED[cell]), _ours(cell))
    yield ""


def _large() -> Iterator[str]:
    """Yield the table of the large sets. None has been trained."""
    yield "## Large sets\n"
    yield "Overall accuracy; then that of head, mid, and tail, where it is published. We have not trained these,"
    yield "because no machine with the images has been available. Add `--config.data.root=FOLDER`.\n"
    yield from _of_others(LARGE)


def _pretrained() -> Iterator[str]:
    """Yield the tables of pretrained networks: others' figures, and ours with EfficientNet-Lite0."""
    yield "## Pretrained networks\n"
    yield "What others have published. We have not trained these.\n"
    yield from _of_others(PRETRAINED)
    yield "What we have measured: a classifier on the features of EfficientNet-Lite0."
    yield "[pretrained.md](pretrained.md#measured) says how; it also has AdamW and paired gains. For FILE, write"
    yield "`cifar10_lt` or `cifar100_lt`.\n"
    measured = {
        data: {row["row"]: row for row in _read(f"pretrained-{data}-cpu")["rows"]} for data in ("cifar10", "cifar100")
    }
    yield from _head("`--config`", "CIFAR-10-LT, ratio 100", "CIFAR-100-LT, ratio 100")
    for title, loss in pretrained.LOSSES.items():
        for suffix, link in pretrained.LINKS.items():
            found = [rows.get(f"{title}, SGD{suffix}") for rows in measured.values()]
            cells = [_of_lists(row) if row else NONE for row in found]
            yield _row(f"`pretrained/FILE:net=efficientnet_lite0,{loss}{link}`", *cells)
    yield ""


def _of_others(published: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    yield from _head("`--config`", "published", "source", "ours")
    for config, (figures, source) in published.items():
        yield _row(f"`{config}`", figures, source, NONE)
    yield ""


def _read(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _both(found: Mapping[str, str]) -> str:
    """Return overall accuracy, and that of the tail if there is one."""
    return " / ".join(found[name] for name in ("overall", "tail") if name in found) or NONE


def _ours(cell: Cell) -> str:
    reports = [record["best"] for record in cifar_rows.read(cifar_rows.FOLDER, cell).values()]
    if not reports:
        return NONE
    return _of_lists({name: [tables.accuracy(report, name) for report in reports] for name in ("overall", "tail")})


def _of_seeds(runs: list[Mapping[str, float]]) -> str:
    return _of_lists({name: [run[name] for run in runs] for name in ("overall", "tail")}) if runs else NONE


def _of_lists(found: Mapping[str, Any]) -> str:
    values = [found[name] for name in ("overall", "tail")]
    return f"{' / '.join(map(tables.spread, values))} ({len(values[0])})".replace(" ± ", "±")


def _head(*titles: str) -> Iterable[str]:
    return _row(*titles), "|---" * len(titles) + "|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page())
