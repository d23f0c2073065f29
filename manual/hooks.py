"""What MkDocs is told besides mkdocs.yml: where pages come from, what the reference says, and how the life is drawn.

Floor 5. Promise: the site has the repository's own layout, so a link between two pages works on a forge, in an editor
and here, as it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from manual import commands, drawing, failures, metrics, sources, specification
from migrator import lifecycle

#: Pages made from the code, by their path in the site.
REFERENCE: dict[str, Callable[[], str]] = {
    "reference/cli.md": commands.page,
    "reference/spec.md": specification.page,
    "reference/settings.md": specification.settings_page,
    "reference/errors.md": failures.errors_page,
    "reference/findings.md": failures.findings_page,
    "reference/metrics.md": metrics.page,
}
#: Folders of pages, besides those at the top.
_FOLDERS = ("docs", "runbooks")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Put the repository's pages at their own paths, and beside them the reference and every file that is linked."""
    root = Path(config.config_file_path).parent
    for each in [found for found in files if found.src_dir == config.docs_dir]:
        files.remove(each)
    pages = list(root.glob("*.md"))
    pages += [path for folder in _FOLDERS for path in (root / folder).rglob("*.md")]
    named = [PurePosixPath(path.relative_to(root)) for path in sorted(pages)]
    for path in named:
        files.append(File.generated(config, str(path), abs_src_path=str(root / path)))
    files.append(File.generated(config, "manual.css", abs_src_path=str(root / "manual/manual.css")))
    for name, make in REFERENCE.items():
        files.append(File.generated(config, name, content=make()))
    for path in sorted({found for page in named for found in sources.linked(root, page)}):
        files.append(_source(config, root, path))
    return files


def _source(config: MkDocsConfig, root: Path, path: PurePosixPath) -> File:
    place, text = sources.shown(root, path)
    made = File.generated(config, str(path), content=text)
    # Linked by its own name; what is read there is a page.
    made.dest_uri = made.url = place
    return made


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Draw the life where a page has it in Mermaid, which forges draw by themselves and a site only by a script."""
    return markdown.replace(f"```mermaid\n{lifecycle.mermaid()}\n```", drawing.svg())
