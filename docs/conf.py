"""How Sphinx builds the documentation's site: `make docs`.

Sphinx's source folder is the repository's root, so that a relative link means the same on the site and on GitHub.
"""

import inspect
import pydoc
import re

from sphinx import addnodes

import saddle_jax

project = html_title = "saddle_jax"
version = release = saddle_jax.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]

root_doc = "docs/index"
include_patterns = ["docs/**", "examples/*.ipynb", "benchmarks/README.md", "native/README.md"]
include_patterns += ["CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".venv*", "docs/_build", "docs/README.md"]  # docs/index.md includes docs/README.md

nb_execution_mode = "off"  # notebooks are stored with their outputs
myst_heading_anchors = 4  # links to headings, as on GitHub

default_role = "code"  # in docstrings, as in Markdown
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_type_aliases = {
    name: name for name in ("optax.ScalarOrSchedule", "optax.Params", "optax.Updates", "jax.typing.ArrayLike")
}
python_use_unqualified_type_names = True

html_theme = "sphinx_book_theme"
html_theme_options = {
    "footer_content_items": [],
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_extra_path = ["_root"]  # index.html, which leads to docs/index.html
html_show_copyright = False


def read_docstring(_app, _what, name, _object, _options, lines):
    """Turn what docstrings have in common with Markdown into reStructuredText: lengths |g|, and indented code.

    The fields of a named tuple have no docstrings. Their comments take that place.
    """
    if lines and lines[0].startswith("Alias for field number"):
        parent, _, field = name.rpartition(".")
        source = inspect.getsource(pydoc.locate(parent))
        found = re.search(rf"(?m)((?:^    # .*\n)*)^    {field}: [^#\n]*(#.*)?", source)
        lines[:] = [" ".join(f"{found[1]} {found[2] or ''}".replace("#", "").replace("*", r"\*").split())]
    for number, line in enumerate(lines):
        parts = re.split("(`[^`]*`)", line)
        lines[number] = "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in parts)
    text = "\n".join(lines)
    lines[:] = re.sub(r"(?m)^(?![:.\s*-])(.*)\n\n(?=    \S)", r"\1\n\n::\n\n", text).split("\n")


def shorten_factories(_app, _what, _name, _object, _options, signature, returned):
    """Let Sphinx parse the signatures of dataclasses."""
    return signature and signature.replace("<factory>", "..."), returned


def show_titles(_app, document):
    """Show a page's title where a link shows its file name."""
    for link in document.findall(addnodes.pending_xref):
        if link.astext().endswith((".md", ".ipynb")):
            link["refexplicit"] = False


def setup(app):
    """Add these to Sphinx."""
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", shorten_factories)
    app.connect("doctree-read", show_titles)
