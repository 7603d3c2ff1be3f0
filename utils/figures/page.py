"""The report as one HTML page that needs nothing else: figures inside, no script, no address fetched."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jinja2


@dataclass(frozen=True)
class Paragraph:
    text: str
    warning: bool = False
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Figure:
    """The image goes into the page; its caption is its description, too."""

    png: Path
    caption: str
    kind: ClassVar[str] = "figure"

    @property
    def data(self) -> str:
        return base64.b64encode(self.png.read_bytes()).decode()


@dataclass(frozen=True)
class Table:
    """Its first `left` columns are text, its last `code` ones commands."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    left: int = 1
    code: int = 0
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Folded:
    """Lines of code behind a summary that opens them."""

    summary: str
    lines: Sequence[str]
    kind: ClassVar[str] = "folded"


Block = Paragraph | Figure | Table | Folded


def render_page(title: str, introduction: str, sections: Sequence[tuple[str, Sequence[Block]]]) -> str:
    """Render a document of (heading, blocks) sections; what is not markup of ours is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name != "page.css",
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("page.html")
    return template.render(title=title, introduction=introduction, sections=sections) + "\n"
