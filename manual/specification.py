"""Reference of the spec and of the settings, from their pydantic models and the comments that stand above the fields.

Floor 5.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from manual.markdown import code, table
from migrator.endpoint import ProfileOverrides
from migrator.events import HooksSpec
from migrator.limits import LimitsSpec
from migrator.settings import Settings
from migrator.signals import ThrottleSpec
from migrator.spec import ModelSpec, OldModelSpec, Spec, TargetSpec
from migrator.thresholds import GatesSpec

#: The spec's tables as they are written, each with its model.
TABLES: dict[str, type[BaseModel]] = {
    "": Spec,
    "[target]": TargetSpec,
    "[from]": OldModelSpec,
    "[to]": ModelSpec,
    "[to.profile_overrides]": ProfileOverrides,
    "[limits]": LimitsSpec,
    "[gates]": GatesSpec,
    "[throttle]": ThrottleSpec,
    "[hooks]": HooksSpec,
}
_ABOUT = """# The spec

One TOML file a migration, frozen at `start`. Unknown keys, wrong types and impossible combinations are refused, all at
once, each with its place and its mend. A key without a default is needed.
"""
_SETTINGS = """# Settings

From the environment, or from a file `.env` in the folder where a command runs. The environment wins. Secrets come from
nowhere else; the provider's key has the name that the spec's `api_key_env` gives, the key that signs hooks that of
`secret_env`, and a hook's URL, where it is a secret, that of `url_env`.
"""


def page() -> str:
    """Return the page about the spec."""
    parts = [_ABOUT]
    for heading, model in TABLES.items():
        own = [name for name in model.model_fields if _part(model, name) is None or heading == "[to]"]
        about = inspect.cleandoc(model.__doc__ or "").partition(": ")[2] or "The migration itself."
        rows = [_row(model, name) for name in own if (heading, name) != ("[to]", "profile_overrides")]
        title = f"`{heading}`" if heading else "At the head"
        parts += [f"## {title}\n", f"{about[:1].upper()}{about[1:]}\n", table(["key", "is", "default", "means"], rows)]
    return "\n".join(parts)


def settings_page() -> str:
    """Return the page about the environment."""
    documents = documented(Settings)
    schema = Settings.model_json_schema()["properties"]
    rows = [
        [code(f"MIGRATOR_{name.upper()}"), _kind(schema[name], {}), _default(Settings, name), documents.get(name, "")]
        for name in Settings.model_fields
    ]
    return "\n".join([_SETTINGS, table(["variable", "is", "default", "means"], rows)])


def _part(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the table that a key holds, if it holds one of those that have a section."""
    named = repr(model.model_fields[name].annotation)
    return next((each for each in TABLES.values() if f".{each.__name__}" in named), None)


def _row(model: type[BaseModel], name: str) -> list[str]:
    field = model.model_fields[name]
    schema = model.model_json_schema()
    key = field.alias or name
    kind = _kind(schema["properties"][key], schema.get("$defs", {}))
    is_choice = kind.startswith(("true", "`", "list of `"))
    hint = f" Written as {field.description}." if field.description and not is_choice else ""
    return [code(key), kind, _default(model, name), documented(model).get(name, "") + hint]


def _default(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "needed"
    return "" if field.default is None else code(json.dumps(field.default, ensure_ascii=False))


def _kind(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Say what a value is, in words, from its JSON schema."""
    if "$ref" in schema:
        return _kind(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(_kind(each, definitions) for each in schema["anyOf"] if each.get("type") != "null")
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return " or ".join(code(json.dumps(each)) for each in schema["enum"])
    if schema.get("type") == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return f"list of {_kind(items[0], definitions)}"
    word = {"integer": "whole number", "string": "text", "boolean": "true or false"}.get(
        schema.get("type", ""), schema.get("type", "")
    )
    bounds = [f"{sign} {schema[key]:,}" for key, sign in _SIGNS.items() if key in schema]
    return " ".join([word, ", ".join(bounds)]).strip()


_SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def documented(model: type[BaseModel]) -> dict[str, str]:
    """Return what the `#:` comments above a model's fields say; a field right below another shares its comment."""
    source = Path(sys.modules[model.__module__].__file__ or "").read_text(encoding="utf-8")
    lines = source.splitlines()
    (body,) = [
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == model.__name__
    ]
    found: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above = node.lineno - 1
            while above and lines[above - 1].lstrip().startswith("#:"):
                above -= 1
            said = " ".join(line.strip().removeprefix("#:").strip() for line in lines[above : node.lineno - 1])
            found[node.target.id] = re.sub(r" ?\((?:H\d+|design \d+)\)", "", said)
    return {name: said for name, said in found.items() if said}
