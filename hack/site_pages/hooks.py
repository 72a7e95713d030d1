"""Hooks of mkdocs: two pages that are not files of docs/, links that leave docs/, and llms.txt beside the pages.

`index.md` is README.md; `reference.md` is made from the CRD. A link to a file outside of docs/ becomes one to the
repository. A link to a file that does not exist ends the build.
"""

import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from finetune_api.base import messages_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
README = "README.md"
REFERENCE = "reference.md"
_LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#]+)(?P<rest>[^)]*\))")
_CODE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    crd = yaml.safe_load((ROOT / "crds" / "finetunejobs.finetune.dev.yaml").read_text())
    files.append(File.generated(config, "index.md", content=(ROOT / README).read_text()))
    files.append(File.generated(config, REFERENCE, content=reference(crd)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make each link relative to docs/, or absolute if it leaves docs/."""
    place = page.file.src_uri
    source = README if place == "index.md" else f"{DOCS}/{place}"
    parts = _CODE.split(markdown)
    parts[::2] = [rewritten(part, source, place, str(config.repo_url)) for part in parts[::2]]
    return "".join(parts)


def on_post_build(config: MkDocsConfig) -> None:
    """Put llms.txt where assistants look for it."""
    shutil.copy(ROOT / "llms.txt", config.site_dir)


def rewritten(text: str, source: str, place: str, repository: str) -> str:
    """`text` of the file `source` with links that hold on the site, where the page is `place`."""

    def link(found: re.Match[str]) -> str:
        target = found["target"]
        if re.match(r"[a-z]+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path == f"{DOCS}/{REFERENCE}":
            return (
                found["before"]
                + posixpath.relpath(REFERENCE, posixpath.dirname(place) or ".")
                + found["rest"]
            )
        if not (ROOT / path).exists():
            raise PluginError(f"{source}: the link to {target} leads to {path}, which does not exist")
        if path.startswith(f"{DOCS}/") and (ROOT / path).is_file():
            inside = path.removeprefix(f"{DOCS}/")
            return (
                found["before"] + posixpath.relpath(inside, posixpath.dirname(place) or ".") + found["rest"]
            )
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{found['before']}{repository.rstrip('/')}/{kind}/main/{path}{found['rest']}"

    return _LINK.sub(link, text)


def reference(crd: dict[str, Any]) -> str:
    """A page with every field of `spec` and `status`, as `kubectl explain` shows them."""
    (version,) = crd["spec"]["versions"]
    parts = version["schema"]["openAPIV3Schema"]["properties"]
    lines = [
        "# Fields of a FineTuneJob",
        "",
        f"`apiVersion: {crd['spec']['group']}/{version['name']}`, `kind: FineTuneJob`. In a cluster, "
        "`kubectl explain finetunejob.spec.training` shows the same.",
    ]
    for part in ("spec", "status"):
        for name, schema in sorted(parts[part]["properties"].items()):
            lines += ["", f"## {part}.{name}", "", *_section(name, schema)]
    return "\n".join(lines) + "\n"


def _section(path: str, schema: dict[str, Any]) -> list[str]:
    rows = [f"| `{name}` | {_type(node)} | {_text(node)} |" for name, node in _fields(path, schema)]
    rules = [f"- {_escaped(message)}" for message in _rules(schema)]
    return [
        "| field | type | meaning |",
        "|---|---|---|",
        *rows,
        *(["", "Rules:", "", *rules] if rules else []),
    ]


def _fields(path: str, schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, child in schema.get("properties", {}).items():
        found += _fields(f"{path}.{name}", child)
    items = schema.get("items", {})
    for name, child in items.get("properties", {}).items():
        found += _fields(f"{path}[].{name}", child)
    return found


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if schema.get("type") == "array":
        return f"list of {schema['items'].get('type', 'any')}"
    return str(schema.get("type", "any"))


def _text(schema: dict[str, Any]) -> str:
    default = (
        f" Default: `{schema['default']}`." if "default" in schema and "Default" not in _of(schema) else ""
    )
    return _escaped(_of(schema)) + default


def _of(schema: dict[str, Any]) -> str:
    return str(schema.get("description", ""))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _rules(schema: dict[str, Any]) -> list[str]:
    own = [text for entry in schema.get("x-kubernetes-validations", []) for text in messages_of(entry)]
    children = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return list(dict.fromkeys([*own, *(message for child in children for message in _rules(child))]))
