"""Compile what we ship for accelerators that are not here, check the programs, and write docs/accelerators.md.

    make test-accelerators                          # downloads the compilers first, 460 MB
    python benchmarks/accelerators.py --only h100   # only rows with this text in their name
    python benchmarks/accelerators.py --page        # only writes the page, from the record

A row takes from ten seconds to several minutes. Rows that are in the record with the same versions are not compiled
again. So an interrupted call can be repeated. The record is benchmarks/results/accelerators.json. The exit code is 1 if
a program does not compile or fails a check.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import jax  # noqa: E402 (needs the path above)
import numpy as np  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from saddle_jax.data import sources  # noqa: E402
from saddle_jax.data.feeds import resident  # noqa: E402
from saddle_jax.data.images import Batch, batch_of  # noqa: E402
from saddle_jax.data.order import evaluation_slots  # noqa: E402
from saddle_jax.host import compiled, console, devices, machines  # noqa: E402
from saddle_jax.losses import make_loss  # noqa: E402
from saddle_jax.methods.choose import make_method  # noqa: E402
from saddle_jax.modes import check_target  # noqa: E402
from saddle_jax.schedules import make_schedules  # noqa: E402
from saddle_jax.spectra import hvp  # noqa: E402
from saddle_jax.training.program import make_program  # noqa: E402

RECORD = ROOT / "benchmarks/results/accelerators.json"
PAGE = ROOT / "docs/accelerators.md"
BF16 = {"model.dtype": "bfloat16"}
# The compilers' own calls: cuDNN's and cuBLAS's kernels, and hints and views of memory on TPUs.
_KNOWN_CALLS = (
    *("__cudnn$", "__cublas$", "__gpu$"),
    *("AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked", "ConcatBitcast", "AllocateBuffer"),
)


class Row(NamedTuple):
    """A program to compile."""

    name: str
    machine: str
    config: str  # module in configs/
    argument: str = ""
    fields: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    kind: str = "train"  # train, evaluate, or product

    @property
    def key(self) -> str:
        """The row's name in the record."""
        return f"{self.name} @ {self.machine}"


def rows() -> Iterator[Row]:
    """Yield the rows of the page, the most telling ones first."""
    cifar, large = "cifar10_lt", "imagenet_lt"
    for machine in ("h100:1", "v5e:1x1"):
        yield Row("CIFAR-10-LT, LDAM+DRW+SAM", machine, cifar)
    for machine in ("h100:8", "v5e:4x4"):
        yield Row("ImageNet-LT, LDAM+DRW+SAM", machine, large)
    for machine in ("h100:8", "a100:4", "v5e:2x2", "v5e:16x16", "v5p:2x2x1"):
        yield Row("ImageNet-LT, LDAM+DRW+SAM, bfloat16", machine, large, fields=BF16)
    yield Row("ImageNet-LT, LDAM+DRW, bfloat16", "h100:8", large, "ldam_drw", BF16)
    for machine in ("h100:1", "v5e:1x1"):
        yield Row("CIFAR-10-LT, LDAM+DRW+SAM, four seeds at once", machine, cifar, fields={"num_seeds": 4})
        yield Row("CIFAR-10-LT, Hessian-vector products, two at once", machine, cifar, "ce", kind="product")
        yield Row("CIFAR-10-LT, evaluation", machine, cifar, kind="evaluate")
    for machine in ("h100:8", "v5e:4x4"):
        yield Row("iNaturalist 2018, LDAM+DRW+SAM, bfloat16", machine, "inat18", fields=BF16)
        yield Row("ImageNet-LT, PaCo+SAM", machine, "methods.paco_imagenet_lt")
        yield Row("ImageNet-LT, evaluation", machine, large, kind="evaluate")
    for machine in ("h100:8", "v5e:2x4"):
        yield Row("ImageNet-LT, GLMC+SAM", machine, "methods.glmc_imagenet_lt")
    saving = {**BF16, "model.remat": True, "micro_batches": 4, "model.batch_norm": "synchronized"}
    for machine in ("h100:1", "v5e:1x1"):
        name = "ImageNet-LT, LDAM+DRW+SAM, bfloat16, remat, 4 micro-batches, synchronized BatchNorm"
        yield Row(name, machine, large, fields=saving)
        yield Row("CIFAR-100-LT, PaCo+SAM", machine, "methods.paco_cifar100", fields={"data.pipeline": "numpy"})
        yield Row("CIFAR-10-LT, GLMC+SAM", machine, "methods.glmc_cifar")
        yield Row("CIFAR-10-LT, classifier re-training", machine, "methods.retrain_cifar")
    for machine in ("h100:1", "v5e:2x2"):
        yield Row("ImageNet-LT, ViT-B/16, adapters", machine, "pretrained.imagenet_lt", fields=BF16)
    for link in ("pgd", "cnc_pgd", "lpf_sgd", "asam", "imbsam", "cc_sam", "sse_sam", "focal_sam", "le_sam"):
        yield Row(f"CIFAR-10-LT, LDAM+DRW with {link}", "h100:8", cifar, f"ldam_drw_{link}")


def config_of(row: Row) -> ConfigDict:
    """Return a row's config."""
    config = importlib.import_module(f"configs.{row.config}").get_config(row.argument)
    config.update_from_flattened_dict(row.fields)
    return config


def evaluation(config: ConfigDict, splits: sources.Splits) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the function that evaluates a batch, and the shapes of its arguments."""
    program = make_program(config, splits)
    state = devices.replicate(jax.eval_shape(lambda: program.init(0)))
    is_resident = isinstance(splits.test.images, np.ndarray)
    parts = devices.num_devices()
    size = -(-min(config.eval.batch_size, len(splits.test.labels)) // parts) * parts
    slots = next(evaluation_slots(len(splits.test.labels), size, parts))
    data = resident.put(splits.test.images, splits.test.labels) if is_resident else ()
    inputs = devices.deal(slots if is_resident else _blank(slots, splits))
    return program.eval_step(is_resident, False), (state.params, state.model_state, data, inputs)


def product(config: ConfigDict, splits: sources.Splits) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the function that adds a chunk's part of two Hessian-vector products, and the shapes of its arguments."""
    method = make_method(
        config, splits.stats, splits.train.images.shape[1:], devices.AXIS, make_schedules(config, splits.stats, 10)
    )
    variables = jax.jit(method.init)(jax.random.key(0))
    weights_C = np.ones(splits.stats.num_classes)
    point, unravel = hvp.flat_point(variables.params, variables.model_state, weights_C, "float32")
    pieces = hvp.make_pieces(method, make_loss(config, splits.stats, 1.0), unravel, train_mode=False)
    vectors = devices.replicate(np.zeros((2, point.params_P.size), np.float32))
    parts = devices.num_devices()
    chunk = _blank(next(evaluation_slots(len(splits.train.labels), 32 * parts, parts)), splits)
    return pieces.product, (vectors, vectors, point, devices.deal(chunk))


def _blank(slots: Any, splits: sources.Splits) -> Batch:
    shape = (len(slots.ids_B), *splits.train.images.shape[1:])
    return batch_of(np.zeros(shape, np.uint8), splits.test.labels, slots)


def compile_row(row: Row) -> dict[str, Any]:
    """Compile a row's program, and return what the page and the checks need."""
    config, machine = config_of(row), machines.named(row.machine)
    splits = sources.outline(config)
    began = time.monotonic()
    found: dict[str, Any] = {"config": f"{row.config}:{row.argument}", "kind": row.kind, "fields": row.fields}
    if row.kind == "train":
        verdict = check_target.compile_for(config, splits, machine)
        needs = verdict.needs
        found |= {"parameters": verdict.parameters, "steps": verdict.steps}
        found |= {"least_ms": 1e3 * verdict.estimate.seconds, "images": config.batch_size}
    else:
        with devices.build_for(check_target.target_of(machine)):
            function, arguments = {"evaluate": evaluation, "product": product}[row.kind](config, splits)
            needs = compiled.needs_of(compiled.compile_lowered(function.lower(*arguments), machine))
    found |= needs._asdict()
    found["collectives"] = {name: list(one) for name, one in needs.collectives.items()}
    return found | {"seconds": time.monotonic() - began}


def problems(row: Row, found: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a compiled program."""
    if "error" in found:
        yield "does not compile"
        return
    config, machine = config_of(row), machines.named(row.machine)
    if found["memory"] > check_target.USABLE * machine.chip.memory:
        yield f"needs {found['memory'] / 2**30:.1f} GiB"
    if found["float64"]:
        yield "computes in float64"
    if found["callbacks"]:
        yield "calls back to the host"
    if unknown := [name for name in found["custom_calls"] if not name.startswith(_KNOWN_CALLS)]:
        yield f"custom calls {unknown}"
    if "all-gather" in found["collectives"] and config.method != "paco":
        yield "gathers from all devices"
    passes = {"sgd": 1, "sam": 2}.get(config.optim.name)
    trains_all = row.kind == "train" and config.model.train == "all"
    if trains_all and config.method == "plain" and passes and machine.count > 1:
        _, reduced = found["collectives"].get("all-reduce", (0, 0))
        expected = 4 * passes * found["parameters"]
        if not 0.99 < reduced / expected < 1.02:
            yield f"sums {reduced:,} bytes over devices, expected about {expected:,}"


def read_record() -> dict[str, dict[str, Any]]:
    """Return the rows that were compiled before, by name and machine."""
    return json.loads(RECORD.read_text()) if RECORD.is_file() else {}


def page(record: dict[str, dict[str, Any]]) -> str:
    """Return docs/accelerators.md."""
    lines = [
        _START,
        "| program | machine | memory of a device | TFLOP | GB of memory traffic | sums over devices | step |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows():
        if (found := record.get(row.key)) is not None:
            lines.append(f"| {row.name} | {row.machine} | {' | '.join(_cells(row, found))} |")
    return "\n".join(lines) + _end(record)


def _cells(row: Row, found: dict[str, Any]) -> Iterator[str]:
    if "error" in found:
        yield from ("does not compile", "", "", "", "")
        return
    memory, limit = found["memory"] / 2**30, machines.named(row.machine).chip.memory / 2**30
    yield f"{memory:.2f} of {limit:.0f} GiB"
    yield "–" if found["flops"] is None else f"{found['flops'] / 1e12:.3f}"
    yield "–" if found["traffic"] is None else f"{found['traffic'] / 1e9:.1f}"
    kinds = [f"{count} {name} of {size / 1e6:,.1f} MB" for name, (count, size) in found["collectives"].items()]
    yield ", ".join(kinds) or "none"
    yield f"{found['least_ms']:,.1f} ms" if "least_ms" in found and found["traffic"] is not None else "–"


_START = """# What we ship, compiled for accelerators

JAX compiles for a machine that is not there. So you can learn on a laptop, before you rent anything, whether a step
fits and what it costs:

```bash
saddle-jax --config imagenet_lt --mode check --target v5e:4x4
saddle-jax --config imagenet_lt --mode check --target h100:8 --config.model.dtype=bfloat16
```

The command needs no data for CIFAR, ImageNet-LT, iNaturalist 2018, and Places-LT, whose sizes are known. It needs the
compiler of the machine, and says how to install it. If the step does not fit, it tries bfloat16, `model.remat`, and
micro-batches, and says which of them makes it fit.

A TPU's name is `v4`, `v5e`, `v5p`, or `v6e`, with a grid of chips. A GPU's name is `a100`, `h100`, or `h200`, with the
number of GPUs.

`make test-accelerators` compiles the table below and checks every program:

- A gradient is summed over the devices once for each pass: as many bytes as the parameters have.
- Only PaCo, whose loss compares the images of all devices, gathers from all devices.
- Nothing is in float64, nothing calls back to the host, and every custom call is the compiler's own.
- The program fits into the device's memory.

All figures are for one device and one step. Memory is what the compiler allocates for the program that trains:
an epoch in one call if images stay on the devices, else a step. The last column is the least time of a step by the
roofline model: products and memory traffic at the peak rates of the maker's data sheet, then sums over devices. **No
step was measured on these machines**, and a real step takes longer. XLA does not say the memory traffic of a GPU, so
there is no time for GPUs here.
"""


def _end(record: dict[str, dict[str, Any]]) -> str:
    compiled_with = sorted({json.dumps(found["versions"]) for found in record.values()})
    made = " to ".join(sorted({min(dates := [found["date"] for found in record.values()]), max(dates)}))
    versions = "; ".join(", ".join(f"{k} {v}" for k, v in json.loads(one).items()) for one in compiled_with)
    return f"\n\nCompiled {made} with {versions}.\n"


def _versions(machine: machines.Machine) -> dict[str, str]:
    compiler = "libtpu" if machine.chip.platform == "tpu" else "jax-cuda13-plugin"
    return {name: importlib.metadata.version(name) for name in ("jax", compiler)}


def main() -> int:
    """Compile the rows that are missing, and write the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="text in the name or the machine of the rows to compile")
    parser.add_argument("--page", action="store_true", help="write the page from the record, and compile nothing")
    options = parser.parse_args()
    machines.compute_on_cpu()
    for row in () if options.page else [row for row in rows() if options.only in row.key]:
        machine = machines.named(row.machine)
        machines.require_compiler(machine.chip)
        versions = _versions(machine)
        if read_record().get(row.key, {}).get("versions") == versions:
            continue
        with console.doing(row.key):
            try:
                found = compile_row(row)
            except jax.errors.JaxRuntimeError as error:
                found = {"error": str(error).splitlines()[0]}
        found |= {"date": time.strftime("%Y-%m-%d"), "versions": versions}
        record = read_record() | {row.key: found}  # another call may have written meanwhile
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        print(row.key, "|", *_cells(row, found), "|", *problems(row, found), flush=True)
    record = read_record()
    PAGE.write_text(page(record))
    compiled_rows = [row for row in rows() if row.key in record]
    wrong = [f"{row.key}: {problem}" for row in compiled_rows for problem in problems(row, record[row.key])]
    print("\n".join(wrong) or f"{len(record)} programs compile and pass the checks")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
