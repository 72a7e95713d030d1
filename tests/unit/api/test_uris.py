"""The one grammar for models, data and outputs."""

import pytest
from pydantic import TypeAdapter, ValidationError

from finetune_api.uris import ClaimUri, DataUri, HubLocation, ModelUri, is_hub, parse, parse_hub

CLAIM = [
    "pvc://demo/model",
    "pvc://demo.v2/models/minilm",
    "pvc://a/b",
    "pvc://demo/Models/MiniLM-L6_v2=best+1@main.bak",
    "pvc://demo/my model/final",
    f"pvc://demo/{'a' * 127}",
]
CONFIG_MAP = ["configMap://tiny/rows.csv", "configMap://tiny/.rows", "configMap://a.b-c/ROWS_1"]
HUB_MODELS = {
    "hf://gpt2": HubLocation("gpt2", None, None),
    "hf://org/name": HubLocation("org/name", None, None),
    "hf://org/name@main": HubLocation("org/name", "main", None),
    "hf://datasets/name": HubLocation("datasets/name", None, None),
    "hf://org/name@refs/pr/12": HubLocation("org/name", "refs/pr/12", None),
}
HUB_DATA = {
    "hf://datasets/org/name/train.csv": HubLocation("org/name", None, "train.csv"),
    "hf://datasets/org/name@v1.0/a/b.csv": HubLocation("org/name", "v1.0", "a/b.csv"),
    "hf://datasets/org/name@refs/convert/parquet/d/0.parquet": HubLocation(
        "org/name", "refs/convert/parquet", "d/0.parquet"
    ),
}
HUB_PATTERNS = {
    "hf://datasets/org/name/*.parquet": HubLocation("org/name", None, "*.parquet"),
    "hf://datasets/org/name@main/data/train-?-*.parquet": HubLocation(
        "org/name", "main", "data/train-?-*.parquet"
    ),
}
PATTERNS = [
    "pvc://demo/data/train-*.parquet",
    "pvc://demo/data/*.jsonl.gz",
    "pvc://demo/*",
    "pvc://demo/a?b",
    "pvc://demo/my data/?-*-of-*.csv",
    "configMap://tiny/*.csv",
    "configMap://tiny/part-?.csv",
]
NO_PATTERNS = [
    "pvc://demo/*/train.parquet",
    "pvc://demo/**/train.parquet",
    "pvc://demo/d?ta/*.parquet",
    "pvc://dem*/data/train.parquet",
    "pvc://*/train.parquet",
    "pvc://demo/data/[ab].parquet",
    "pvc://demo/data/{a,b}.parquet",
    "pvc://demo/data/*/",
    "pvc://demo/../*.parquet",
    "pvc://demo/.*",
    "configMap://*/rows.csv",
    "hf://datasets/org/*/train.parquet",
    "hf://datasets/org/name@*/train.parquet",
    "hf://datasets/org/name/*/train.parquet",
]
NEITHER = [
    "",
    "demo/model",
    "/models/minilm",
    "./model",
    "file:///models/minilm",
    "PVC://demo/model",
    "pvc:/demo/model",
    "pvc:///model",
    "pvc://demo",
    "pvc://demo/",
    "pvc://demo/model/",
    "pvc://demo//model",
    "pvc://Demo/model",
    "pvc://-demo/model",
    "pvc://demo-/model",
    "pvc://demo/.finetune/model",
    "pvc://demo/../model",
    "pvc://demo/a/../../b",
    "pvc://demo/a..b",
    "pvc://demo/a%2e%2e",
    "pvc://demo/a\\b",
    "pvc://demo/a#b",
    "pvc://demo/modèle",
    "pvc://demo/model\n",
    "pvc://user@demo/model",
    f"pvc://demo/{'a' * 128}",
    f"pvc://demo/{'a/' * 260}a",
    "configMap://tiny",
    "configMap://tiny/",
    "configMap://tiny/a/b",
    "configMap://tiny/a..b",
    "configmap://tiny/rows.csv",
    "secret://tiny/rows.csv",
]


def accepts(kind: object, uri: str) -> bool:
    try:
        TypeAdapter(kind).validate_python(uri)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("uri", CLAIM)
def test_a_folder_on_a_claim_holds_models_and_data(uri: str) -> None:
    assert accepts(ClaimUri, uri)
    assert accepts(DataUri, uri)


@pytest.mark.parametrize("uri", CONFIG_MAP)
def test_a_config_map_holds_data_only(uri: str) -> None:
    assert accepts(DataUri, uri)
    assert not accepts(ClaimUri, uri)


@pytest.mark.parametrize("uri", NEITHER, ids=ascii)
def test_anything_else_is_refused(uri: str) -> None:
    assert not accepts(ClaimUri, uri)
    assert not accepts(DataUri, uri)


@pytest.mark.parametrize("uri", PATTERNS)
def test_the_last_part_of_a_uri_of_data_may_be_a_pattern(uri: str) -> None:
    assert accepts(DataUri, uri)
    assert not accepts(ClaimUri, uri)
    assert not accepts(ModelUri, uri)
    assert str(parse(uri)) == uri


@pytest.mark.parametrize("uri", NO_PATTERNS)
def test_a_pattern_may_stand_nowhere_else(uri: str) -> None:
    assert not accepts(DataUri, uri)


@pytest.mark.parametrize("uri", CLAIM + CONFIG_MAP)
def test_a_location_is_written_as_it_was_read(uri: str) -> None:
    assert str(parse(uri)) == uri


def test_a_location_has_a_scheme_an_object_and_a_path() -> None:
    location = parse("pvc://demo/models/minilm")
    assert (location.scheme, location.name, location.path.parts) == ("pvc", "demo", ("models", "minilm"))


@pytest.mark.parametrize(("uri", "location"), HUB_MODELS.items())
def test_a_model_of_the_hub_is_a_repository_and_a_revision(uri: str, location: HubLocation) -> None:
    assert accepts(ModelUri, uri)
    assert not accepts(DataUri, uri)
    assert not accepts(ClaimUri, uri)
    assert is_hub(uri)
    assert parse_hub(uri) == location


@pytest.mark.parametrize(("uri", "location"), (HUB_DATA | HUB_PATTERNS).items())
def test_data_of_the_hub_is_a_file_in_a_dataset(uri: str, location: HubLocation) -> None:
    assert accepts(DataUri, uri)
    assert not accepts(ModelUri, uri)
    assert parse_hub(uri) == location


@pytest.mark.parametrize(
    "uri",
    [
        "hf://",
        "hf://org/",
        "hf://org/name@",
        "hf://org/name@a/b",
        "hf://org/name@refs/heads/main",
        "hf://../x",
    ],
)
def test_what_names_no_repository_is_refused(uri: str) -> None:
    assert not accepts(ModelUri, uri)
    with pytest.raises(ValueError, match="neither"):
        parse_hub(uri)
