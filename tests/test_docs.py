"""The pages of the documentation: links lead somewhere, Python compiles, and commands are understood."""

import importlib.machinery
import json
import re
import shlex
import sys
import types

import pytest
from conftest import ROOT
from PIL import Image

from benchmarks import recipes
from saddle_jax.experiment import command_line, config_file, help
from saddle_jax.experiment.catalogue.published import PUBLISHED

PAGES = [
    *ROOT.glob("*.md"),
    *sorted(ROOT.glob("docs/**/[!_]*.md")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "native")),
]
PAGES = [page for page in PAGES if "_build" not in page.parts]
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))
CONFIGS = sorted(ROOT.glob("configs/**/*.py"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def text_of(path):
    """Return a page's text, or that of a notebook's Markdown."""
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(path):
    """Return the anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        to = (page.parent / file).resolve() if file else page
        if not to.exists() or (anchor and anchor not in anchors(to)):
            broken.append(target)
    assert not broken


def test_every_page_and_every_result_is_listed():
    """Pages are listed by docs/README.md on GitHub, and by docs/index.md on the site."""
    listed, front = (ROOT / "docs/README.md").read_text(), (ROOT / "docs/index.md").read_text()
    for page in ROOT.glob("docs/*.md"):
        if page.stem not in ("README", "index"):
            assert f"({page.name})" in listed, page.name
            assert f"\n{page.stem}\n" in front, page.name
    for notebook in NOTEBOOKS:
        assert f"(../examples/{notebook.name})" in listed
        assert f"\n../examples/{notebook.stem}\n" in front
    measured = (ROOT / "benchmarks/README.md").read_text()
    for result in ROOT.glob("benchmarks/results/*.json"):
        assert f"(results/{result.name})" in measured


def test_python_compiles():
    blocks = [(page, code) for page in PAGES for code in re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)]
    assert blocks
    for page, code in blocks:
        compile(code, name(page), "exec")


def test_the_recipes_are_those_of_the_results_and_each_can_be_trained():
    """`python benchmarks/recipes.py` writes the page."""
    page = (ROOT / "docs/recipes.md").read_text()
    assert page == recipes.page()
    found = re.findall(r"^\| `(\w.*?)` \|", page, re.MULTILINE)
    assert len(found) > 50
    for config in found:
        config_file.load(config.replace("FILE", "cifar10_lt"))


def commands_of(path):
    """Return the words of each command, and of each line of flags alone, in indented code."""
    found = []
    for command, flags in re.findall(
        r"^    (?:.*?)\b(saddle-jax --.*(?:\n {8,}--.*)*)|^    (--.*)$", path.read_text(), re.M
    ):
        text = (command or flags).replace("\\\n", " ").replace("\n", " ")
        if text.count("'") % 2:  # the end of a quotation that holds the command
            text = text.rstrip("'")
        found.append(shlex.split(text, comments=True))
    return found


WITH_COMMANDS = [path for path in [*PAGES, *CONFIGS] if commands_of(path) and path.stem != "extending"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the commands name: folders of images, published weights, runs, and a checkpoint."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "weights").mkdir()
    for one in PUBLISHED.values():
        (folder / "weights" / one.file).touch()
    for of in ("cat", "lynx"):
        (folder / "my_images" / of).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "my_images" / of / "1.png")
    for run in ("sgd", "sam", "ce_drw", "ce_drw_sam"):
        (folder / "runs" / run).mkdir(parents=True)
    (folder / "ckpt.pth.tar").touch()
    return folder


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_are_understood(page, folder, monkeypatch):
    """Those of docs/extending.md are run, by test_extending.py."""
    monkeypatch.chdir(folder)
    for tracker in ("wandb", "mlflow"):  # optional packages, which a page shows how to install
        monkeypatch.setitem(sys.modules, tracker, types.ModuleType(tracker))
        monkeypatch.setattr(
            sys.modules[tracker], "__spec__", importlib.machinery.ModuleSpec(tracker, None, origin="here")
        )
    for words in commands_of(page):
        command_line.FLAGS.unparse_flags()
        if words[0] != "saddle-jax":
            words = ["saddle-jax", *([] if words[0] == "--config" else ["--config", "cifar10_lt"]), *words]
            words += ["--config.data.root=my_images"] if "folder" in words[2] else []
        asked = help.topics(words)
        if asked is None:
            assert command_line.parse(words).mode in command_line.MODES
        else:
            assert help.text(asked, config_file.SHIPPED)
