"""Reading our Markdown: its sections, fenced blocks, the commands in them, inline code and links."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNBOOKS = ROOT / "runbooks"
#: Folders that are made, not written.
_MADE = {"build", "dist", "artifacts", "site"}
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)
#: What ends one simple command of a line and begins another.
_OPERATORS = {"|", "||", "&&", ";", "&"}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    language: str
    body: str


def pages() -> list[Path]:
    """Every Markdown file that is part of the project."""
    found = ROOT.rglob("*.md")
    parts = {path: path.relative_to(ROOT).parts for path in found}
    return sorted(
        path
        for path, names in parts.items()
        if not any(name.startswith(".") or name in _MADE or name == "node_modules" for name in names)
    )


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def flat(text: str) -> str:
    """The text with every stretch of white space as one space."""
    return " ".join(text.split())


def blocks(text: str) -> list[Block]:
    return [Block(found["language"], textwrap.dedent(found["body"])) for found in _FENCE.finditer(text)]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text)


def sections(text: str) -> dict[str, str]:
    """The bodies of the second-level sections by their headings, in order."""
    hidden = _FENCE.sub(lambda found: re.sub(r"^#", "\0", found[0], flags=re.MULTILINE), text)
    parts = re.split(r"^## +(.+)$", hidden, flags=re.MULTILINE)
    bodies = [body.replace("\0", "#") for body in parts[2::2]]
    return dict(zip(parts[1::2], bodies, strict=True))


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return not command.endswith("\\")


def commands(text: str) -> list[tuple[str, ...]]:
    """Every simple command of every line that begins with `$ ` in a fenced block, taken apart as a shell does.

    A command goes on over lines while a quote is open or a line ends in a backslash. Assignments before a command and
    redirections are left out.
    """
    found: list[tuple[str, ...]] = []
    for block in blocks(text):
        command = ""
        for line in block.body.splitlines():
            if command:
                command = f"{command.removesuffix(chr(92))}\n{line}"
            elif line.startswith("$ "):
                command = line.removeprefix("$ ")
            if command and _is_whole(command):
                found += _simple(command)
                command = ""
        assert not command, f"a command has no end: {command}"
    return found


def _simple(command: str) -> list[tuple[str, ...]]:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    made: list[list[str]] = [[]]
    redirected = False
    for word in lexer:
        if word in _OPERATORS:
            made.append([])
        elif word in {">", ">>", "<"}:
            redirected = True
        elif redirected:
            redirected = False
        elif made[-1] or not re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", word, re.DOTALL):
            made[-1].append(word)
    return [tuple(words) for words in made if words]


def spans(text: str) -> list[str]:
    """Every piece of inline code."""
    return [flat(found) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text))]


def links(text: str) -> list[str]:
    """The targets of every link and picture, in both spellings."""
    bare = re.sub(r"`[^`]*`", "", prose(text))
    return re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", bare) + re.findall(r"^\[[^\]]+\]: *(\S+)", bare, re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The fragments that a page's headings can be reached by."""
    found: dict[str, int] = {}
    made = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        number = found.get(slug, 0)
        found[slug] = number + 1
        made.add(f"{slug}-{number}" if number else slug)
    return made
