"""The report as one HTML page that needs nothing else: figures inside, no script, no address fetched."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

STYLE = Path(__file__).with_suffix(".css")


def page(title: str, introduction: str, sections: Sequence[tuple[str, str]]) -> str:
    """A document of (heading, HTML) sections."""
    body = "".join(f"<section><h2>{text(head)}</h2>{content}</section>" for head, content in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE.read_text()}</style></head><body><main>"
        f"<h1>{text(title)}</h1><p>{text(introduction)}</p>{body}</main></body></html>\n"
    )


def text(value: object) -> str:
    return html.escape(str(value))


def paragraph(value: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def figure(png: Path, caption: str) -> str:
    """The image inside the page; its caption is its description, too."""
    data = base64.b64encode(png.read_bytes()).decode()
    return (
        '<figure><div class="scroll">'
        f'<img src="data:image/png;base64,{data}" alt="{text(caption)}"></div>'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1, code: int = 0) -> str:
    """Its first `left` columns are text, its last `code` ones commands."""

    def line(cells: Sequence[object], tag: str) -> str:
        texts, plain = [' class="text"'] * left, [""] * (len(cells) - left - code)
        kinds = [*texts, *plain, *[' class="code"'] * code]
        shown = (f"<{tag}{kind}>{text(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    whole = f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{whole}</div>'


def folded(summary: str, lines: Mapping[str, str] | Sequence[str]) -> str:
    """Lines of code behind a summary that opens them."""
    return (
        f"<details><summary>{text(summary)}</summary><code>{text(chr(10).join(lines))}</code></details>"
    )
