"""An executed notebook as parts of an HTML page: text, equations, code, printed output, tables.

Nothing in a notebook reaches the page as markup of its own: text goes through nbconvert's
Markdown with HTML escaped, equations become MathML of known elements, and of HTML outputs only
the texts of a table's cells are taken.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from nbconvert.filters import strip_ansi
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

Link = Callable[[str], str | None]
"""Where a notebook's link leads on the site; None: nowhere, only its text is shown."""

SHOWN_LINES = 4
"""What a cell printed is folded where it is longer."""


@dataclass
class Table:
    """Texts, as a reader sees them."""

    columns: list[str]
    rows: list[list[str]]


@dataclass
class Part:
    """One thing on the page; which fields are filled follows from its kind."""

    kind: str
    """text, code, printed, table or picture."""
    cell: int
    """Number of the notebook's cell."""
    html: str = ""
    """Of text and code, safe as it is."""
    text: str = ""
    """What was printed; a table's Markdown; a picture's ending, png or svg."""
    title: str = ""
    """Of code: what its fold says."""
    is_open: bool = False
    table: Table | None = None
    data: bytes = b""
    """Of a picture."""
    names: list[str] = field(default_factory=list)
    """Of a picture: the figures that its cell wrote, shell patterns among them."""


def title_of(notebook: NotebookNode) -> str:
    """The first heading, or the empty string."""
    for cell in notebook.cells:
        heading = re.search(r"^# (.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and heading:
            return heading[1].strip()
    return ""


def parts(notebook: NotebookNode, link: Link) -> list[Part]:
    """All cells and outputs, in order, the parameters that were run with ahead of the defaults."""
    found: list[Part] = []
    cells = list(notebook.cells)
    tags = [set(cell.metadata.get("tags", [])) for cell in cells]
    injected = any("injected-parameters" in tag for tag in tags)
    for number, (cell, tag) in enumerate(zip(cells, tags, strict=True)):
        if cell.cell_type == "markdown":
            found.append(Part("text", number, html=markdown(cell.source, link)))
        elif cell.cell_type == "code" and cell.source.strip():
            part = Part("code", number, html=code(cell.source), title=_fold(cell.source))
            if "injected-parameters" in tag or ("parameters" in tag and not injected):
                part.title, part.is_open = "Parameters of this run", True
            elif "parameters" in tag:
                part.title = "Default parameters"
            found += [part, *_outputs(cell, number, link)]
    starts = [i for i, part in enumerate(found) if part.title == "Default parameters"]
    for i in starts:
        if i + 1 < len(found) and found[i + 1].is_open:
            found[i : i + 2] = found[i + 1], found[i]
    return found


def _fold(source: str) -> str:
    lines = source.strip().count("\n") + 1
    return "Code, one line" if lines == 1 else f"Code, {lines} lines"


FIGURE = re.compile(r'write_figure\(.*?\boutput,\s*(f?)"([^"]+)"', re.DOTALL)


def _outputs(cell: NotebookNode, number: int, link: Link) -> list[Part]:
    names = [
        re.sub(r"\{[^}]*\}", "*", name) if formatted else name
        for formatted, name in FIGURE.findall(cell.source)
    ]
    found = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            found.append(_printed(output.text, number))
        elif output.output_type == "error":
            found.append(_printed("\n".join(output.traceback), number))
        else:
            found += _shown(output.get("data", {}), number, names, link)
    return found


def _printed(text: str, number: int) -> Part:
    text = strip_ansi(text).rstrip()
    lines = text.count("\n") + 1
    return Part(
        "printed", number, text=text, title=f"Printed, {lines} lines", is_open=lines <= SHOWN_LINES
    )


def _shown(data: dict[str, Any], number: int, names: list[str], link: Link) -> list[Part]:
    """The richest of an output's forms that is safe to show."""
    for kind, ending in (("image/svg+xml", "svg"), ("image/png", "png")):
        if kind in data:
            content = "".join(data[kind])
            raw = content.encode() if ending == "svg" else base64.b64decode(content)
            return [Part("picture", number, text=ending, data=raw, names=names)]
    if "text/markdown" in data:
        text = "".join(data["text/markdown"])
        table = read_markdown(text)
        if table:
            return [Part("table", number, text=text, table=table)]
        return [Part("text", number, html=markdown(text, link))]
    table = read_html("".join(data.get("text/html", "")))
    if table:
        return [Part("table", number, table=table)]
    return [_printed("".join(data.get("text/plain", "")), number)]


def code(source: str) -> str:
    """Python with its words in spans, for the style sheet to colour."""
    return str(Highlight2HTML(pygments_lexer="ipython3")(source.strip("\n")))


def markdown(source: str, link: Link) -> str:
    """Markdown as HTML; equations as MathML; HTML in it is shown, not obeyed."""
    return str(MarkdownWithMath(renderer=_Renderer(link)).render(source))


class _Renderer(IPythonRenderer):
    """nbconvert's, but with equations made here, and links led to pages of the site."""

    def __init__(self, link: Link):
        super().__init__(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)
        self._lead = link

    def block_math(self, body: str) -> str:
        return mathml(body, display="block")

    def inline_math(self, body: str) -> str:
        return mathml(body, display="inline")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", display="block")

    def block_mermaidjs(self, code: str) -> str:
        return f"<pre>{escape(code)}</pre>\n"

    def link(self, text: str, url: str, title: str | None = None) -> str:
        target = self._lead(url)
        return text if target is None else f'<a href="{escape(target)}">{text}</a>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        target = None if "//" in url else self._lead(url)  # no picture of another host
        if target is None:
            return f"<em>{text}</em>"
        return f'<span class="card wide"><img src="{escape(target)}" alt="{escape(text)}"></span>'

    def table(self, text: str) -> str:
        about = 'class="scroll" tabindex="0" role="region" aria-label="Table"'
        return f"<div {about}><table>{text}</table></div>\n"


ALIASES = {r"\arg": r"\text{arg}\,"}
"""LaTeX that latex2mathml does not know."""

MATHML = {
    "math", "mrow", "mi", "mo", "mn", "mtext", "mspace", "msub", "msup", "msubsup", "munder",
    "mover", "munderover", "mfrac", "msqrt", "mroot", "mtable", "mtr", "mtd", "mstyle", "mpadded",
    "mphantom", "menclose",
}  # fmt: skip

HARMLESS = {
    "display", "mathvariant", "stretchy", "fence", "form", "minsize", "maxsize", "width",
    "height", "depth", "lspace", "rspace", "accent", "accentunder", "columnalign",
    "columnspacing", "rowspacing", "linethickness", "movablelimits", "separator", "symmetric",
    "largeop", "displaystyle", "scriptlevel", "notation", "xmlns",
}  # fmt: skip


def mathml(latex: str, display: str) -> str:
    """An equation as MathML; as its LaTeX where it cannot be made, or made harmless."""
    source = latex.strip()
    for unknown, known in ALIASES.items():
        source = re.sub(re.escape(unknown) + r"(?![a-zA-Z])", lambda _, known=known: known, source)
    try:
        made = convert(source, display=display)
        tree = ElementTree.fromstring(made)
    except Exception:  # latex2mathml has a dozen ways to fail
        return f"<code>{escape(latex)}</code>"
    for node in tree.iter():
        # "{namespace}name"
        names = {name.rpartition("}")[2] for name in (*node.attrib,)}
        unknown = re.match(r"\\[a-zA-Z]", node.text or "")
        if node.tag.rpartition("}")[2] not in MATHML or names - HARMLESS or unknown:
            return f"<code>{escape(latex)}</code>"
    return f'<span class="equation">{made}</span>' if display == "block" else made


def read_markdown(text: str) -> Table | None:
    """A table in Markdown, if the text is one and nothing else."""
    lines = text.strip().splitlines()
    if len(lines) < 3 or not all(line.startswith("|") and line.endswith("|") for line in lines):
        return None
    header, rule, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    straight = {len(row) for row in (header, rule, *rows)} == {len(header)}
    if not straight or not all(re.fullmatch(":?-+:?", cell) for cell in rule):
        return None
    return Table(header, rows)


def read_html(text: str) -> Table | None:
    """The first table of pandas' HTML, by the texts of its cells."""
    reader = _Cells()
    reader.feed(text)
    head, body = reader.head, reader.body
    if not head or not body or {len(row) for row in (*head, *body)} != {len(head[0])}:
        return None
    # An index's name stands in a second row of the head.
    columns = [" ".join(filter(None, names)) for names in zip(*head, strict=True)]
    return Table(columns, body)


class _Cells(HTMLParser):
    """Rows of texts, of the head and of the body."""

    def __init__(self) -> None:
        super().__init__()
        self.head: list[list[str]] = []
        self.body: list[list[str]] = []
        self._rows = self.body
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in ("thead", "tbody"):
            self._rows = self.head if tag == "thead" else self.body
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td") and self._rows:
            self._rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._rows[-1][-1] += data.strip()


def slug(name: str) -> str:
    """A name as an element's id: no spaces."""
    return re.sub(r"\s", "_", name)
