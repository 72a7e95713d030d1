"""JSON is read as Python reads it, but for what is nested too deeply."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from finetune_core import json_reading

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
as_python_does = json.JSONDecoder().decode


@pytest.fixture(autouse=True, scope="module")
def installed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json, "_default_decoder", json._default_decoder)  # type: ignore[attr-defined]
        json_reading.install()
        yield


@given(ANYTHING, st.booleans(), st.booleans())
def test_values_are_those_of_pythons_parser(value: object, ascii_only: bool, as_bytes: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    read = json.loads(text.encode(errors="surrogatepass") if as_bytes else text)
    assert repr(read) == repr(as_python_does(text))


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nope", '{"a": 1} x', '{"a": "\n"}', "[" * 5000])
def test_what_is_no_json_is_refused_as_pythons_parser_does(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


@pytest.mark.parametrize("levels", [201, 900, 5000, 10_002])
def test_what_is_nested_too_deeply_is_dropped_and_all_else_is_there(levels: int) -> None:
    deep = '{"f:]":[' * (levels // 2) + "1" + "]}" * (levels // 2)
    read = json.loads(f'{{"before": "}}\\"{{[", "deep": {deep}, "after": [1, {deep}, {{"x": "é"}}]}}')
    assert (read["before"], read["after"][0], read["after"][2]) == ('}"{[', 1, {"x": "é"})
    found, seen = read["deep"], 0
    while not isinstance(found, str):
        found, seen = (found["f:]"] if isinstance(found, dict) else found[0]), seen + 1
    assert (found, seen) == ("dropped: nested too deeply", 99)


def page(begin: str, *objects: dict[str, Any]) -> str:
    """A LIST as the API server writes it."""
    end = '],"kind":"XList","metadata":{"continue":"c"}}' if "Version" in begin else "]}"
    return begin + ",".join(json.dumps(one, separators=(",", ":")) for one in objects) + end


def an_object(name: str, **fields: Any) -> dict[str, Any]:
    metadata = {
        "managedFields": [{"fieldsV1": {"f:spec": {}}}],
        "name": name,
        "annotations": {"note": "]}, [{"},
    }
    return {"metadata": metadata, "spec": fields}


BEGINNINGS = [
    '{"apiVersion":"finetune.dev/v1alpha1","items":[',
    '{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[',
]


@pytest.mark.parametrize("begin", BEGINNINGS)
def test_each_object_of_a_page_has_a_limit_of_its_own(begin: str) -> None:
    many = [[] for _ in range(200_000)]
    text = page(
        begin, an_object("a", command="x" * 9), an_object("b", values=many), an_object("c", few=[[1], [2]])
    )
    first, second, third = json.loads(text)["items"]
    assert first == {
        "metadata": {"name": "a", "annotations": {"note": "]}, [{"}},
        "spec": {"command": "x" * 9},
    }
    assert (second["metadata"]["name"], second["spec"]) == (
        "b",
        {"values": "dropped: the object has too many values"},
    )
    assert third["spec"] == {"few": [[1], [2]]}


@pytest.mark.parametrize("begin", BEGINNINGS)
def test_large_pages_are_read_as_small_ones_are(begin: str) -> None:
    objects = [an_object(str(number), text="x" * 100_000, env=[{"name": "n"}] * 64) for number in range(7)]
    large, small = json.loads(page(begin, *objects)), json.loads(page(begin))
    for one in objects:
        del one["metadata"]["managedFields"]
    assert large == small | {"items": objects}


def test_a_page_is_cut_where_it_is_too_deep_too() -> None:
    deep = json.dumps(an_object("deep", text="x" * 600_000)).replace('"]}, [{"', "[" * 5000 + "]" * 5000)
    read = json.loads(BEGINNINGS[0] + deep + "," + json.dumps(an_object("b", of=1)) + "]}")
    assert [one["metadata"]["name"] for one in read["items"]] == ["deep", "b"]


@pytest.mark.parametrize("levels", [150, 600, 900, 5000])
@pytest.mark.parametrize("begin", [*BEGINNINGS, ""])
def test_nothing_large_is_nested_too_deeply_however_deep_pythons_parser_goes(begin: str, levels: int) -> None:
    deep = json.dumps({"text": "x" * 600_000, "deep": "HERE"}).replace('"HERE"', "[" * levels + "]" * levels)
    read = json.loads(begin + deep + ("]}" if begin else ""))
    to_json(read)
    found, seen = read["items"][0]["deep"] if begin else read["deep"], 0
    while isinstance(found, list):
        found, seen = found[0], seen + 1
    assert found == "dropped: nested too deeply"
    assert 90 < seen < 100


@pytest.mark.parametrize("end", ["", ",", "{", '{"a":1}', '{"a":1},', '{"a":1}]', "]x"])
def test_a_large_page_that_breaks_off_is_refused(end: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(BEGINNINGS[0] + json.dumps({"x": "y" * 600_000}) + "," + end)


def test_a_large_text_is_read() -> None:
    assert len(json.loads(json.dumps("x" * 600_000))) == 600_000
