"""JSON is read as Python reads it, but for what is nested too deeply."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator import json_reading

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
def test_what_is_nested_too_deeply_is_null_and_all_else_is_there(levels: int) -> None:
    deep = '{"f:]":[' * (levels // 2) + "1" + "]}" * (levels // 2)
    read = json.loads(f'{{"before": "}}\\"{{[", "deep": {deep}, "after": [1, {deep}, {{"x": "é"}}]}}')
    assert (read["before"], read["after"][0], read["after"][2]) == ('}"{[', 1, {"x": "é"})
    found, seen = read["deep"], 0
    while found:
        found, seen = (found["f:]"] if isinstance(found, dict) else found[0]), seen + 1
    assert found is None
    assert seen == 99
