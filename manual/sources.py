"""Files of the repository that pages link to: a test, a settings file, a folder. Each becomes a page that can be read.

Floor 5. Promise: what a page links to is in the site, so that it needs no forge to be read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path, PurePosixPath

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

_LINK = re.compile(r"\]\(<?([^)\s>#]+)[^)]*\)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def linked(root: Path, page: PurePosixPath) -> Iterator[PurePosixPath]:
    """Yield what a page links to within the repository and is no page, by its path from the root."""
    text = re.sub(r"`[^`\n]*`", "", _FENCED.sub("", (root / page).read_text(encoding="utf-8")))
    for link in _LINK.findall(text):
        path = PurePosixPath(os.path.normpath(page.parent / link))
        if ":" not in link and path.suffix != ".md" and (root / path).exists():
            yield path
            if (root / path).is_dir():
                yield from (each for each in _below(root, path))


def _below(root: Path, folder: PurePosixPath) -> Iterator[PurePosixPath]:
    for path in sorted((root / folder).rglob("*")):
        # What Python leaves there is no source.
        if path.is_file() and path.suffix != ".md" and "__pycache__" not in path.parts:
            yield PurePosixPath(path.relative_to(root))


def shown(root: Path, path: PurePosixPath) -> tuple[str, str]:
    """Return where a file is read in the site, and the page."""
    if (root / path).is_dir():
        items = [each.relative_to(path) for each in _below(root, path)]
        listed = "".join(f'<li><a href="{each}.html">{escape(str(each))}</a></li>' for each in items)
        return f"{path}/index.html", _document(str(path), f"<ul>{listed}</ul>")
    text = (root / path).read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    formatter = HtmlFormatter(linenos="inline", lineanchors="line", anchorlinenos=True, noclasses=True)
    return f"{path}.html", _document(str(path), highlight(text, lexer, formatter))


def _document(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )
