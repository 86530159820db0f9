"""Render a document made of blocks as one self-contained HTML page and as Markdown. All content is escaped.

Does not need JAX.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote

from saddle_jax.report import script, style


class Heading(NamedTuple):
    """A heading; level 1 is the title of the document."""

    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph; `warning` highlights it, `lead` makes it the first thing that is read."""

    text: str
    warning: bool = False
    lead: bool = False


class Items(NamedTuple):
    """A bulleted list."""

    items: Sequence[str]


class Strong(str):
    """A cell of a table in bold."""


class Table(NamedTuple):
    """A table; the columns in `words` hold text, the others hold numbers.

    A long table is folded: the page shows what is in it, and the table once a reader asks for it.
    """

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    words: Iterable[int] = (0,)
    folded: str = ""  # what is in it; an empty string for a table that is open


class Code(NamedTuple):
    """Commands for a terminal."""

    text: str


class Picture(NamedTuple):
    """A figure."""

    name: str  # of its files
    drawn: style.Rendered
    caption: str


class Pictures(NamedTuple):
    """Figures, side by side if there is room."""

    pictures: Sequence[Picture]


class Links(NamedTuple):
    """Links to files next to the page."""

    text: str
    links: Sequence[tuple[str, str]]  # label, relative path


Block = Heading | Text | Items | Table | Code | Pictures | Links

FIGURES = "figures"  # folder of the pictures' files, beside the page
_LONGEST_NAME = 60

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d8dde3; --page: #fff; --shade: #f5f7f9;
  --warn: #b35900; --link: #0059b3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4b0; --line: #3a424c; --page: #14181d;
  --shade: #1d232a; --warn: #ffb366; --link: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 75rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .5rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p, ul { max-width: 48rem; margin: .5rem 0; }
ul { padding-left: 1.2rem; }
a { color: var(--link); }
nav { font-size: .95rem; } nav a { margin-right: 1rem; display: inline-block; }
.lead { font-size: 1.15rem; font-weight: 600; line-height: 1.4; }
.warning { border-left: 4px solid var(--warn); padding: .2rem .8rem; background: var(--shade); }
.scroll { overflow-x: auto; margin: .6rem 0; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; overflow-wrap: normal; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); font-weight: 600; }
.word, tbody th { text-align: left; } td.word, tbody th { white-space: normal; max-width: 32rem; }
td.short { white-space: nowrap; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--page); max-width: 20rem; }
pre { overflow-x: auto; background: var(--shade); padding: .7rem; font-size: .85rem; border-radius: 4px;
  margin: .3rem 0; }
summary { cursor: pointer; margin: .6rem 0; }
.pictures { display: grid; gap: 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; max-width: 34rem; }
figcaption { color: var(--soft); font-size: .9rem; }
@media (max-width: 40rem) { table { font-size: .85rem; } th, td { padding: .25rem .4rem; }
  td.short { white-space: normal; min-width: 4.2rem; } tbody th { max-width: 8rem; } }
@media print { body { max-width: none; } .scroll { overflow: visible; } }
"""
# The page loads nothing from outside; this policy makes the browser enforce it.
_POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{script.HASH}'"


def with_file_names(blocks: Iterable[Block]) -> list[Block]:
    """Return the blocks with names of pictures that files can have, each once."""
    taken: dict[str, int] = {}

    def named(picture: Picture) -> Picture:
        name = re.sub(r"[^\w.=]+", "-", picture.name).strip("-.")[:_LONGEST_NAME] or "figure"
        taken[name.lower()] = number = taken.get(name.lower(), 0) + 1
        return picture._replace(name=name if number == 1 else f"{name}-{number}")

    return [Pictures(list(map(named, block.pictures))) if isinstance(block, Pictures) else block for block in blocks]


def as_html(blocks: Sequence[Block]) -> str:
    """Return a complete HTML page; the level-2 headings form its table of contents."""
    title = next((block.text for block in blocks if isinstance(block, Heading) and block.level == 1), "saddle_jax")
    headings = [block for block in blocks if isinstance(block, Heading)]
    anchors = {id(block): f"part-{number}" for number, block in enumerate(headings)}
    contents = [f'<a href="#{anchors[id(b)]}">{_text(b.text)}</a>' for b in headings if b.level == 2]
    body = []
    for block in blocks:
        body.append(_html_block(block, anchors.get(id(block), "")))
        if isinstance(block, Heading) and block.level == 1 and len(contents) > 1:
            body.append(f"<nav>{''.join(contents)}</nav>")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{_text(title)}</title>\n<style>{_STYLE}{style.CSS}{script.CSS}</style>\n</head>\n<body>",
            *body,
            f"<script>{script.SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def _html_block(block: Block, anchor: str) -> str:
    match block:
        case Heading(text, level):
            return f'<h{level} id="{anchor}">{_text(text)}</h{level}>'
        case Text(text, warning, lead):
            return f'<p class="{"warning" if warning else "lead" if lead else "text"}">{_text(text)}</p>'
        case Items(items):
            return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"
        case Table():
            return _html_table(block)
        case Code(text):
            return f"<pre>{_text(text)}</pre>"
        case Pictures(pictures):
            return '<div class="pictures">' + "".join(map(_figure, pictures)) + "</div>"
        case Links(text, links):
            return f"<p>{_text(text)} " + ", ".join(f'<a href="{_url(p)}">{_text(t)}</a>' for t, p in links) + "</p>"


def _html_table(table: Table) -> str:
    words = set(table.words)

    def cell(number: int, text: str, row: str) -> str:
        short = " short" if len(text) <= 16 and row == "body" else ""
        kind, text = f' class="word{short}"' if number in words else "", _cell(text)
        if row == "head":
            return f'<th scope="col"{kind}>{text}</th>'
        return f'<th scope="row">{text}</th>' if number == 0 else f"<td{kind}>{text}</td>"

    head = "".join(cell(number, text, "head") for number, text in enumerate(table.header))
    lines = ["".join(cell(n, text, "body") for n, text in enumerate(line)) for line in table.lines]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    # tabindex makes the box reachable by keyboard, so that a wide table can be scrolled without a mouse.
    opening = '<div class="scroll" tabindex="0"><table>'
    made = f"{opening}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    return f"<details><summary>{_text(table.folded)}</summary>{made}</details>" if table.folded else made


def _cell(text: str) -> str:
    """Return a cell's HTML, in which lines may break after a slash or an equals sign."""
    shown = re.sub(r"([/=])(?=\S)", r"\1<wbr>", _text(text)).replace("\n", "<br>")
    return f"<b>{shown}</b>" if isinstance(text, Strong) else shown


def _figure(picture: Picture) -> str:
    text = _text(picture.caption)
    # A group, not an image: to a screen reader an image has no parts, and the marks of a figure have titles.
    drawn = picture.drawn.inline.replace("<svg", f'<svg role="group" aria-label="{text}"', 1)
    return f"<figure>{drawn}<figcaption>{text}</figcaption></figure>"


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _url(path: str) -> str:
    return _text(quote(path if path.startswith((".", "/")) else f"./{path}"))


def as_markdown(blocks: Sequence[Block]) -> str:
    """Return the document as Markdown, with links and captions in place of its pictures."""
    return "\n\n".join(_markdown_block(block) for block in blocks) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_markdown(text)}"
        case Text(text, warning, lead):
            return f"> {_markdown(text)}" if warning else f"**{_markdown(text)}**" if lead else _markdown(text)
        case Items(items):
            return "\n".join(f"- {_markdown(item)}" for item in items)
        case Table(folded=folded) if folded:
            return f"- table, in report.html: {_markdown(folded)}"
        case Table(header, lines, words):
            words = set(words)
            rule = ["---" if number in words else "---:" for number in range(len(header))]
            rows = [[_markdown_cell(cell) for cell in line] for line in (header, *lines)]
            return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))
        case Code(text):
            return "\n".join(f"    {line}" for line in text.splitlines())
        case Pictures(pictures):
            return "\n".join(
                f"- picture [{_markdown(name)}]({quote(f'{FIGURES}/{name}.svg')}): {_markdown(caption)}"
                for name, _, caption in pictures
            )
        case Links(text, links):
            return f"{_markdown(text)} " + ", ".join(f"[{_markdown(name)}]({quote(path)})" for name, path in links)


def _markdown_cell(text: str) -> str:
    return f"**{_markdown(text)}**" if isinstance(text, Strong) else _markdown(text)


def _markdown(text: str) -> str:
    """Return the text escaped for Markdown, on one line."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(text, quote=False)).replace("\n", " ").replace("\r", " ")
