"""Print the paths of XLA's headers, oneDNN's headers, and oneDNN's library for CMake, separated by semicolons."""

import importlib.metadata
import importlib.util
import pathlib

jaxlib = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent


def file_of(package: str, name: str) -> pathlib.Path:
    """Return the absolute path of a file that a package has installed."""
    for file in importlib.metadata.files(package) or []:
        if str(file).endswith(name):
            return pathlib.Path(file.locate()).resolve()
    raise SystemExit(f"found no {name} in {package}. Fix: pip install --force-reinstall {package}==2023.2.0")


headers = file_of("onednn-devel-cpu-gomp", "include/oneapi/dnnl/dnnl.hpp").parents[2]
print(jaxlib / "include", headers, file_of("onednn-cpu-gomp", "libdnnl.so.3"), sep=";")
