"""Config files: the shipped experiments by their names, and anybody's own by path.

A config file has a function `get_config`, which returns a ConfigDict. While one is loaded, `configs` is the package of
the shipped experiments, wherever saddle_jax is installed and whatever else a program calls `configs`.
"""

from __future__ import annotations

import contextlib
import inspect
import pathlib
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location, spec_from_loader
from types import ModuleType

from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError, did_you_mean

_PACKAGE = pathlib.Path(__file__).parents[1]
# An installed package holds its configs; in a clone they lie beside it.
_FOLDER = next(folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir())
_NO_EXPERIMENTS = ("__init__.py", "default.py", "recipes.py")
SHIPPED = sorted(
    p.relative_to(_FOLDER).with_suffix("").as_posix() for p in _FOLDER.rglob("*.py") if p.name not in _NO_EXPERIMENTS
)
_configs: dict[str, ModuleType] = {}  # the package `configs` and its modules, as far as they are imported


def load(name: str) -> ConfigDict:
    """Return the config that `FILE[:ARGUMENTS]` names. FILE is a path, or the name of a shipped experiment.

    Raises:
      ConfigError: there is no such file, it fails, it returns no config, or it does not take the arguments.
    """
    file, colon, arguments = name.partition(":")
    path = _find(file)
    try:
        with _shipped_as_configs():
            return _config_of(path, file, [arguments] * bool(colon))
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's own file raises
        raise ConfigError(f"--config: {file} can't be loaded: {error}") from error


def _find(file: str) -> pathlib.Path:
    """Return the file. configs/NAME.py also means NAME, so that commands for a clone work anywhere."""
    with contextlib.suppress(OSError, RuntimeError):  # too long a name, a folder that may not be read, an unknown ~user
        if (path := pathlib.Path(file).expanduser()).is_file():
            return path
    name = file.removeprefix("configs/").removesuffix(".py")
    if name in SHIPPED:
        return _FOLDER / f"{name}.py"
    first, comma, rest = file.partition(",")
    if comma and first.removeprefix("configs/").removesuffix(".py") in SHIPPED:
        raise ConfigError(
            f"--config: found {file!r}, expected a colon after the experiment. Fix: --config {first}:{rest}"
        )
    raise ConfigError(
        f"--config: found no file {file!r}, and no experiment of that name.{did_you_mean(name, SHIPPED)} "
        f"Known: {', '.join(SHIPPED)}"
    )


def _config_of(path: pathlib.Path, file: str, arguments: list[str]) -> ConfigDict:
    loader = SourceFileLoader("_config_file", str(path))  # the file's name may have any ending
    module = module_from_spec(spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module  # where dataclasses look for it
    loader.exec_module(module)
    if arguments and not _takes_arguments(module.get_config):
        raise ConfigError(f"--config: {file} takes no arguments after the colon, found {arguments[0]!r}. Fix: {file}")
    config = module.get_config(*arguments)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"--config: get_config() of {file} returned {config!r}, expected a ConfigDict")
    return config


def _takes_arguments(get_config: Callable[..., object]) -> bool:
    try:
        inspect.signature(get_config).bind("")
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def _shipped_as_configs() -> Iterator[None]:
    """Let `import configs` find the shipped experiments. Then restore whatever else the program calls `configs`."""
    others = _take_configs()
    if not _configs:
        _configs["configs"] = module_from_spec(spec_from_file_location("configs", _FOLDER / "__init__.py"))
    sys.modules.update(_configs)
    try:
        yield
    finally:
        _configs.update(_take_configs())
        sys.modules.update(others)


def _take_configs() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "configs"]
    return {name: sys.modules.pop(name) for name in names}
