"""Print where the headers of XLA and oneDNN and oneDNN's library are, for CMake: a list separated by semicolons."""

import importlib.metadata
import importlib.util
import pathlib

jaxlib = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent


def file_of(package: str, name: str) -> pathlib.Path:
    """Return the absolute path of a file that a package has installed."""
    return next(pathlib.Path(f.locate()) for f in importlib.metadata.files(package) if str(f).endswith(name)).resolve()


headers = file_of("onednn-devel-cpu-gomp", "include/oneapi/dnnl/dnnl.hpp").parents[2]
print(jaxlib / "include", headers, file_of("onednn-cpu-gomp", "libdnnl.so.3"), sep=";")
