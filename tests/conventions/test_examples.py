"""Every FineTuneJob that we show to users is a valid one."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from finetune_api import API_VERSION, GROUP, KIND
from finetune_api.finetunejob import JOB_RULES, FineTuneJobSpec
from unit.api.schemas import crd_schema, nodes

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def documents(text: str) -> list[Any]:
    """YAML 1.2, as kubectl reads it: 5e-5 is a number."""
    return [document for document in YAML(typ="safe", pure=True).load_all(text) if document]


def jobs_of(text: str) -> list[dict[str, Any]]:
    """The documents of our group; another kind than FineTuneJob among them is a typing error."""
    return [one for one in documents(text) if str(one.get("apiVersion")).startswith(GROUP)]


def blocks(page: Path) -> list[str]:
    """The YAML blocks of a page that show a whole job."""
    found = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in found if f"apiVersion: {GROUP}" in block]


IN_FILES = [
    (file.relative_to(ROOT).as_posix(), job)
    for file in sorted((ROOT / "examples").rglob("*.yaml"))
    for job in jobs_of(file.read_text())
]
IN_PAGES = [
    (page.relative_to(ROOT).as_posix(), job)
    for page in PAGES
    for block in blocks(page)
    for job in jobs_of(block)
]


def test_there_are_examples_in_files_and_on_pages() -> None:
    assert IN_FILES
    assert IN_PAGES


@pytest.mark.parametrize(("place", "job"), IN_FILES + IN_PAGES)
def test_an_example_is_a_valid_job(place: str, job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == (API_VERSION, KIND), place
    assert [rule.message for rule in JOB_RULES if rule.holds and not rule.holds(job)] == [], place
    FineTuneJobSpec.from_json(job["spec"])


def test_the_page_on_finetunejob_explains_fields_that_are_there() -> None:
    page = (ROOT / "docs" / "finetunejob.md").read_text()
    explained = set(re.findall(r"kubectl explain (?:ftj|finetunejob)\.([\w.]+)", page))
    fields = {".".join(place) for part in ("spec", "status") for place, _ in nodes(crd_schema(part), (part,))}
    assert len(explained) > 5
    assert explained <= fields


def test_the_page_on_finetunejob_names_every_field_of_the_spec() -> None:
    page = (ROOT / "docs" / "finetunejob.md").read_text()
    assert {name for name in crd_schema("spec")["properties"] if f"`{name}`" not in page} == set()
