#!/usr/bin/env python3
"""Writes what the documentation repeats of the code: run it after a change of the model or of a role's arguments.

- ``docs/reference/inventory.md`` and ``docs/reference/inventory.schema.json``: the model.
- ``docs/reference/hazards.md``: what came of the attacks of ``tests/security``.
- ``roles/*/README.md``, between two markers: the table of the role's arguments.

``generate_docs.py --check`` writes nothing, names what is out of date, and ends with 1 if anything is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from security import report  # noqa: E402

from hpchub.model import entries  # noqa: E402
from hpchub.model.site import Site  # noqa: E402

BEGIN = "<!-- arguments: generated from meta/argument_specs.yml -->"
END = "<!-- end of arguments -->"


# Roles

_MARKUP = (
    (re.compile(r"\b[CVOE]\(((?:[^()\\]|\\.)*)\)"), r"`\1`"),
    (re.compile(r"\bB\(([^()]*)\)"), r"**\1**"),
    (re.compile(r"\bI\(([^()]*)\)"), r"*\1*"),
    (re.compile(r"\bU\(([^()]*)\)"), r"<\1>"),
    (re.compile(r"\bL\(([^,()]*),\s*([^()]*)\)"), r"[\1](\2)"),
)


def markdown(text: str) -> str:
    """Ansible's markup as Markdown, on one line."""
    text = " ".join(text.split())
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text


def paragraphs(description: str | list[str]) -> str:
    """A description as one line."""
    return markdown(" ".join([description] if isinstance(description, str) else description))


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|")


def shown(value: Any) -> str:
    """A default value."""
    if value == "":
        return "empty"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"


def rows(options: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> list[str]:
    """The table's lines for some arguments, and for what is in them."""
    found = []
    for name, option in options.items():
        kind = option.get("type", "str")
        kind += f" of {option['elements']}" if "elements" in option else ""
        default = defaults.get(name, option.get("default"))
        what = "**required**" if option.get("required") else "none" if default is None else shown(default)
        about = paragraphs(option.get("description", ""))
        if "choices" in option:
            about += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
        found.append(f"| `{prefix}{name}` | {kind} | {cell(what)} | {cell(about)} |")
        inner = f"{prefix}{name}[]." if option.get("type") == "list" else f"{prefix}{name}."
        found += rows(option.get("options", {}), {}, inner)
    return found


def role_table(role: Path) -> str:
    """What stands between the markers of a role's README."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    path = role / "defaults" / "main.yml"
    defaults = (yaml.safe_load(path.read_text()) if path.exists() else None) or {}
    parts = []
    for name, spec in specs.items():
        title = (
            [] if name == "main" else [f"### `tasks_from: {name}`", "", markdown(spec["short_description"]) + ".", ""]
        )
        lines = rows(spec.get("options", {}), defaults)
        table = ["| argument | type | default | meaning |", "| --- | --- | --- | --- |", *lines]
        parts.append("\n".join([*title, *(table if lines else ["No arguments."])]))
    return "\n\n".join(parts)


def role_readme(role: Path) -> str:
    """A role's README with its table made anew; a first one where there is none."""
    path = role / "README.md"
    if path.exists():
        text = path.read_text()
    else:
        spec = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]
        about = spec.get("description", [])
        lines = [markdown(line) for line in ([about] if isinstance(about, str) else about)]
        text = "\n\n".join([f"# {role.name}", markdown(spec["short_description"]) + ".", *lines, "## Arguments"])
        text += f"\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{path.relative_to(ROOT)}: lacks the lines {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n\n{role_table(role)}\n\n{END}{after}"


# The model

_INTRODUCTION = """\
# The inventory's variables

<!-- generated from the package's model by tests/repo/generate_docs.py -->

All of a site's description is in `inventories/SITE/group_vars/all/`, in the variables below. Any other name that
begins with `hpc_` is refused, as is any key that is not listed here. [inventory.schema.json](inventory.schema.json) is
the same as JSON Schema, for editors; `hpchub schema` prints it.

`ansible-playbook -i inventories/SITE playbooks/validate.yml` or `hpchub check inventories/SITE` says what is wrong with
a description, without a connection to any host.

Sizes are a number and `M`, `G` or `T` (1024 each), as in `4G`. Times are `"H:MM:SS"` or `"D-HH:MM:SS"`; write the
quotes, for YAML reads the first as a number without them.
"""


def model_reference() -> str:
    """The page about the variables."""
    schema = Site.json_schema()
    required = schema["required"]
    lines = [_INTRODUCTION, "| variable | |", "| --- | --- |"]
    for name, field in schema["properties"].items():
        need = " **required**" if name in required else ""
        lines.append(f"| [`{name}`](#{name}) | {cell(meaning(field, schema['$defs']))}{need} |")
    for name, field in schema["properties"].items():
        lines += ["", f"## {name}", "", *variable(name, field, schema["$defs"])]
    return "\n".join(lines) + "\n"


def meaning(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A field's description; pydantic leaves it to the definition where both say the same."""
    text = field.get("description") or definitions[field["$ref"].rsplit("/", 1)[1]]["description"]
    return str(text).replace("``", "`")


def variable(name: str, field: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """The section of one variable, without its heading."""
    if name == "hpc_kernels":
        return kernels(field, definitions)
    reference = field.get("$ref") or field.get("items", {}).get("$ref")
    if reference is None:
        return [field["description"]]
    what = "A list; each entry:" if "items" in field else "A mapping:"
    return [meaning(field, definitions), "", what, "", *entry(reference.rsplit("/", 1)[1], definitions)[2:]]


def kernels(field: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """The section of the kernels: what all kinds have, then what each has besides."""
    kinds = {kind: ref.rsplit("/", 1)[1] for kind, ref in field["items"]["discriminator"]["mapping"].items()}
    common = [key for key in definitions["PythonKernel"]["properties"] if key in entries.KernelBase.model_fields]
    table = entry("PythonKernel", definitions)[2:]
    lines = [field["description"], "", "Every kernel has", ""]
    lines += table[:2] + [line for line in table[2:] if line.split("`")[1] in common]
    lines.append(
        f"| `kind` | {', '.join(f'`{kind}`' for kind in kinds)} | **required** | What else it has, see below. |"
    )
    for kind, name in kinds.items():
        own = entry(name, definitions)
        own = own[:4] + [line for line in own[4:] if line.split("`")[1] not in (*common, "kind")]
        lines += ["", f"### kind: {kind}", "", *own]
    return lines


def entry(name: str, definitions: dict[str, Any], prefix: str = "") -> list[str]:
    """What one kind of entry is, and its table, with the entries inside it below their field."""
    definition = definitions[name]
    lines = []
    if not prefix:
        lines = [definition["description"], "", "| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in definition["properties"].items():
        default = default_of(name, key, field, required=key in definition.get("required", []))
        lines.append(
            f"| `{prefix}{key}` | {cell(value_of(field))} | {cell(default)} | {cell(meaning(field, definitions))} |"
        )
        reference = field.get("$ref") or field.get("items", {}).get("$ref")
        if reference:
            inner = f"{prefix}{key}[]." if "items" in field else f"{prefix}{key}."
            lines += entry(reference.rsplit("/", 1)[1], definitions, inner)
    return lines


_TYPES = {"string": "text", "integer": "whole number", "boolean": "true or false", "array": "list", "object": "mapping"}


def value_of(field: dict[str, Any]) -> str:
    """What a field may hold."""
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if "$ref" in field:
        return "mapping"
    kind = _TYPES[field["type"]]
    if kind == "whole number":
        return f"{kind}, {field['minimum']} to {field['maximum']}"
    if kind == "list":
        return "list of mappings" if "$ref" in field["items"] else f"list of {value_of(field['items'])}"
    return "secret" if field.get("format") == "password" else kind


def default_of(model: str, key: str, field: dict[str, Any], *, required: bool) -> str:
    """What a field is when it is not written; a default that is another field's is in its meaning."""
    if required:
        return "**required**"
    if getattr(entries, model).model_fields[key].default_factory is not None:
        return "see there"
    default = field.get("default")
    return "as below" if "$ref" in field else shown(default)


def documents() -> dict[Path, str]:
    """Every generated file, and what it should hold."""
    reference = ROOT / "docs" / "reference"
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Site.json_schema()}
    found = {
        reference / "hazards.md": report.page(report.results()),
        reference / "inventory.md": model_reference(),
        reference / "inventory.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
    }
    for specs in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        role = specs.parents[1]
        found[role / "README.md"] = role_readme(role)
    return found


def outdated() -> list[Path]:
    """The generated files that are not as they should be."""
    return [path for path, text in documents().items() if not path.exists() or path.read_text() != text]


def main() -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if something is out of date")
    check = parser.parse_args().check
    content = documents()
    stale = outdated()
    for path in stale:
        print(f"{path.relative_to(ROOT)}{' is out of date' if check else ''}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
