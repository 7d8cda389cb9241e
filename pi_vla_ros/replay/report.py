# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A report that opens anywhere: one HTML file with its pictures inside."""

from __future__ import annotations

import base64
import html
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #222 }
h1 { margin-bottom: 0 } h2 { margin-top: 1.6em }
table { border-collapse: collapse } td, th { padding: .2em .9em .2em 0; vertical-align: top; text-align: left }
td { border-top: 1px solid #ddd } td.name { color: #666 }
img { max-width: 100%; border: 1px solid #ddd } .good { color: #187a2f } .bad { color: #b02020 }
pre { background: #f6f6f6; padding: 1em; overflow: auto }
"""


def write_report(path: Path, title: str, summary: Mapping, pictures: Mapping[str, Path]) -> None:
    """`summary` becomes a table, each picture (title -> PNG) is embedded; nothing outside the file is referred to."""
    reason = str(summary.get("exit_reason", ""))
    kind = "good" if reason == "finished" else "bad"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1><p class='{kind}'>{html.escape(reason)}</p>",
        "<h2>Summary</h2><table>",
    ]
    parts += [_row(name, value) for name, value in summary.items() if name != "exit_reason"]
    parts.append("</table>")
    for name, picture in pictures.items():
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        parts.append(f"<h2>{html.escape(name)}</h2><img alt='{html.escape(name)}' src='data:image/png;base64,{data}'>")
    raw = html.escape(json.dumps(summary, indent=2))
    parts.append(f"<h2>Numbers</h2><details><summary>summary.json</summary><pre>{raw}</pre></details></body></html>")
    path.write_text("\n".join(parts), encoding="utf-8")


def page(title: str, body: Sequence[str]) -> str:
    """A whole page around `body`, lines of HTML."""
    head = "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
    head += f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
    return "\n".join([head, f"<h1>{html.escape(title)}</h1>", *body, "</body></html>"])


def picture(name: str, data: bytes, kind: str = "png") -> str:
    """An image inside the page; `kind`: png or jpeg."""
    text = base64.b64encode(data).decode("ascii")
    return f"<img alt='{html.escape(name)}' src='data:image/{kind};base64,{text}'>"


def drawn(draw: Callable[[Path], None]) -> str:
    """The picture that `draw` writes to a path, inside the page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        draw(path)
        return picture("", path.read_bytes())


def table(rows: Sequence[Sequence], heads: Sequence[str]) -> str:
    """Numbers with a few digits, the rest as text."""
    line = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><tr>{line}</tr>{body}</table>"


def _row(name: str, value) -> str:
    return f"<tr><td class='name'>{html.escape(name.replace('_', ' '))}</td><td>{_cell(value)}</td></tr>"


def _cell(value) -> str:
    if isinstance(value, Mapping):
        if value and not any(isinstance(v, (Mapping, list)) for v in value.values()):
            return ", ".join(f"{html.escape(str(k))} {_cell(v)}" for k, v in value.items())
        return "<table>" + "".join(_row(str(k), v) for k, v in value.items()) + "</table>" if value else "none"
    if isinstance(value, list):
        return "<br>".join(_cell(v) for v in value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else html.escape(str(value))
