"""An extension of griffe, which reads docstrings for the site: examples become blocks of code, arguments lists.

Docstrings are written to be read in a terminal too. There `>>>` opens an example without a heading, and a paragraph
`name: what it is` explains an argument; Markdown would make quotations and one long line of them.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ARGUMENT = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*|, \.\.\.)*): (?=\S)")


class DocstringPages(griffe.Extension):
    """Changes every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring, dedented, with its examples and unindented arguments as Markdown."""
    return "\n\n".join(_paragraph(each) for each in text.split("\n\n"))


def _paragraph(text: str) -> str:
    if text.lstrip().startswith(">>>"):
        return f"```pycon\n{text}\n```"
    if ARGUMENT.match(text):
        lines = (
            ARGUMENT.sub(r"- **\1**: ", line) if ARGUMENT.match(line) else f"  {line}"
            for line in text.split("\n")
        )
        return "\n".join(lines)
    return text
