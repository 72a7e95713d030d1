"""llms.txt: the pages of the site with what each is about, for assistants (llmstxt.org)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def llms_txt() -> str:
    """The file's text: a heading, a summary, and a section for each part of the navigation."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    lines = [f"# {config['site_name']}", "", f"> {config['site_description']}."]
    for part in config["nav"]:
        ((title, pages),) = part.items()
        if isinstance(pages, list):
            entries = [
                f"- [{name}]({config['site_url']}{_html(page)}): {about}"
                for name, page, about in _pages(pages)
            ]
            lines += ["", f"## {title}", "", *entries]
    return "\n".join(lines) + "\n"


def _pages(pages: list[Any]) -> Iterator[tuple[str, str, str]]:
    """Title, path below docs/ and first sentence of each page."""
    for entry in pages:
        name, page = next(iter(entry.items())) if isinstance(entry, dict) else ("Overview", entry)
        if isinstance(page, list):
            yield from _pages(page)
        else:
            yield name, page, _first_sentence(page)


def _first_sentence(page: str) -> str:
    file = ROOT / "docs" / page
    if not file.exists():
        return "Every field of spec and status with its type, default and meaning."
    paragraphs = (part for part in file.read_text().split("\n\n") if re.match(r"[A-Z]|`[^`]", part))
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", next(paragraphs, "")).replace("\n", " ")
    return re.split(r"(?<=[.:])\s", text)[0].rstrip(":.") + "."


def _html(page: str) -> str:
    return re.sub(r"README\.md$", "index.html", page).replace(".md", ".html")
