"""Wrong values are refused before anything is installed, and the message names the place."""

import json
from typing import Any

import pytest

from chart.rendering import ALL, CHART, DEFAULTS, Json, refusal

# any resource may be asked for, and any label given
FREE = {"resources.requests.", "resources.limits.", "dashboards.labels."}
SCHEMA: Json = json.loads((CHART / "values.schema.json").read_text())


def nested(place: str, value: Any) -> Json:
    """`a.b`, 1 → {"a": {"b": 1}}."""
    for key in reversed(place.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("image.reference", "finetune-operator"),
        ("image.reference", "127.0.0.1:5000/finetune-operator"),
        ("image.repository", "registry.example/operator:v1"),
        ("image.tag", 1.2),
        ("image.digest", "0123"),
        ("image.pullPolicy", "Sometimes"),
        ("imagePullSecrets", [{"name": "pull"}]),
        ("crds.enabled", "yes"),
        ("replicas", "2"),
        ("replicas", -1),
        ("topologySpreadConstraints", [{"topologyKey": "zone", "maxSkew": 1}]),
        ("affinity", {"podAffinities": {}}),
        ("rbac.scope", "everywhere"),
        ("rbac.namespaces", ["team-a"]),
        ("networkPolicy.enabled", "yes"),
        ("networkPolicy.metricsFrom", [{"selector": {}}]),
        ("networkPolicy.trainerNamespaces", "team-a"),
        ("networkPolicy.trainerEgress", [{"from": []}]),
        ("dashboards.enabled", "yes"),
        ("dashboards.namespace", "Monitoring"),
        ("dashboards.labels", {"grafana_dashboard": 1}),
        ("dashboards.annotations", {"grafana_folder": 1}),
        ("operator.workers", 0),
        ("operator.logFormat", "xml"),
        ("operator.logLevel", "info"),
        ("trainer.image", "finetune-trainer"),
        ("trainer.scriptImage", "finetune-script"),
        ("trainer.allowedImages", "registry.example/*"),
        ("trainer.requests", {"memory": "16 GiB"}),
        ("trainer.limits", {"cpu": -1}),
        ("trainer.nodeSelector", {"gpu": True}),
        ("trainer.tolerations", [{"key": "gpu", "effect": "NoRun"}]),
        ("trainer.allowedPriorityClasses", "batch-*"),
        ("trainer.allowedTolerations", None),
        ("trainer.podAnnotations", {"do-not-disrupt": True}),
        ("policy.secrets", "yes"),
        ("platform.assignsIDs", "yes"),
        ("trainer.podLabels", {"team": "search & rank"}),
        ("trainer.hub.endpoint", "hub.example"),
        ("trainer.hub.endpoint", "https://user:token@hub.example"),
        ("trainer.hub.offline", "yes"),
        ("trainer.uid", 0),
        ("defaults.output.size", "10 Gi"),
        ("defaults.output.accessMode", "ReadOnlyMany"),
        ("defaults.gpusPerNode", -1),
        ("defaults.gpuResource", "gpu"),
        ("defaults.gpuMemory", "80 GB"),
        ("defaults.preflight", "No"),
        ("platform.simulateGPUs", "true"),
        ("resources", {"memory": "1Gi"}),
        ("fullnameOverride", "Tuner"),
        ("trainer.pullPolicy", None),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(place: str, value: Any) -> None:
    said = refusal(nested(place, value))
    assert "don't meet the specifications of the schema" in said
    assert place.split(".")[-1] in said


def objects_of(values: Json, place: str = "") -> list[str]:
    """The places where the chart's values have keys of ours."""
    nested_places = [
        inner
        for key, value in values.items()
        if isinstance(value, dict) and value
        for inner in objects_of(value, f"{place}{key}.")
    ]
    return [place, *nested_places]


@pytest.mark.parametrize("place", [place for place in objects_of(DEFAULTS) if place not in FREE])
def test_an_unknown_value_is_refused(place: str) -> None:
    assert "additional properties 'replicaCount' not allowed" in refusal(nested(f"{place}replicaCount", 2))


def test_the_schema_knows_exactly_the_values_of_the_chart() -> None:
    def compare(schema: Json, values: Json, place: str) -> None:
        if "properties" not in schema or place == "resources.":
            return
        assert set(schema["properties"]) - {"global"} == set(values), place
        for key, value in values.items():
            compare(schema["properties"][key], value, f"{place}{key}.")

    compare(SCHEMA, DEFAULTS, "")


def test_the_file_of_all_values_changes_every_value() -> None:
    def compare(changed: Json, values: Json, place: str) -> None:
        assert set(changed) == set(values), place
        for key, value in values.items():
            if isinstance(value, dict) and value and key != "resources":
                compare(changed[key], value, f"{place}{key}.")
            else:
                assert changed[key] != value, f"{place}{key}"

    compare(ALL, DEFAULTS, "")
