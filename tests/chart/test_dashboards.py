"""The dashboards are readable, ask for metrics that exist, and depend on no Grafana in particular."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector

from chart.rendering import CHART, Json, Rendered
from finetune_api.exposition import Kind, Metric
from finetune_cluster.prometheus import prometheus_program
from finetune_operator.metrics.definitions import definitions as of_the_operator
from finetune_trainer.reporting.metrics import definitions as of_the_trainer

BOARDS = {file.stem: json.loads(file.read_text()) for file in (CHART / "dashboards").glob("*.json")}
OF_OTHERS = {"DCGM_FI_DEV_GPU_UTIL", "ALERTS"}
"""Of NVIDIA's DCGM exporter, and of Prometheus itself."""
KEYWORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}
LABELS_OF = r"(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)"
VARIABLES = {
    "$namespace": "demo",
    "$job": "movie-sentiment",
    "$__rate_interval": "2m",
    "$__interval": "30s",
    "$__range": "6h",
    "$__from": "1700000000000",
}


def panels(board: Json) -> list[Json]:
    """The panels without headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


PANELS = [
    pytest.param(panel, id=f"{uid}/{panel['title']}") for uid in BOARDS for panel in panels(BOARDS[uid])
]


def expressions(board: Json) -> Iterator[str]:
    """The PromQL of panels, annotations and variables."""
    for asked in (
        *panels(board),
        *({"targets": [one["target"]]} for one in board["annotations"].get("list", [])),
    ):
        yield from (target["expr"] for target in asked["targets"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert found
            yield found[1]


def metrics_in(expr: str) -> set[str]:
    """Names that are neither functions nor labels nor keywords."""
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(LABELS_OF, "", bare)
    names = re.findall(r"(?<![\w$.])([a-zA-Z_]\w*)(?!\w|\s*\()", bare)
    return set(names) - KEYWORDS


def exposed(metric: Metric) -> set[str]:
    """The names of a metric's series."""
    parts = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
    return {metric.name + part for part in parts}


def known() -> set[str]:
    ours = {name for metric in (*of_the_operator(), *of_the_trainer()) for name in exposed(metric)}
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    process = {sample.name for family in registry.collect() for sample in family.samples}
    return ours | process | OF_OTHERS


def test_the_addresses_of_dashboards_stay() -> None:
    assert {uid: board["title"] for uid, board in BOARDS.items()} == {
        "finetune-fleet": "Fine-tuning / Fleet",
        "finetune-job": "Fine-tuning / Job",
        "finetune-operator": "Fine-tuning / Operator",
        "finetune-search": "Fine-tuning / Search and ensemble",
    }
    assert all(board["uid"] == uid for uid, board in BOARDS.items())


@pytest.mark.parametrize("uid", BOARDS)
def test_every_expression_asks_for_metrics_that_exist(uid: str) -> None:
    asked = {expr: metrics_in(expr) for expr in expressions(BOARDS[uid])}
    assert all(asked.values()), "an expression without a metric"
    assert set.union(*asked.values()) <= known()


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        ('max by (pod) (finetune_a{pod=~"$job-a.+"} or finetune_b)', {"finetune_a", "finetune_b"}),
        ("sum(rate(a_total[$__rate_interval])) and on (instance) b == 1", {"a_total", "b"}),
        ('label_replace(c, "run", "$1", "pod", "x")', {"c"}),
    ],
)
def test_metrics_are_found_in_an_expression(expr: str, names: set[str]) -> None:
    assert metrics_in(expr) == names


@pytest.mark.parametrize("uid", BOARDS)
def test_every_expression_parses(uid: str, tmp_path: Path) -> None:
    filled = [_filled(expr) for expr in expressions(BOARDS[uid])]
    rules = [{"record": f"panel:{number}:value", "expr": expr} for number, expr in enumerate(filled)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": uid, "rules": rules}]}))
    done = subprocess.run(
        [str(prometheus_program("promtool")), "check", "rules", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(filled)} rules found" in done.stdout


def _filled(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr.replace('"$1"', ""), expr
    return expr


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_says_what_it_shows(panel: Json) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
    if panel["type"] == "timeseries":
        assert panel["options"]["legend"]["showLegend"]
    if panel["type"] in ("timeseries", "bargauge"):
        assert all(target["legendFormat"] != "__auto" for target in panel["targets"])


@pytest.mark.parametrize("uid", BOARDS)
def test_no_dashboard_names_a_data_source_of_one_grafana(uid: str) -> None:
    sources = list(_every(BOARDS[uid], "datasource"))
    assert sources
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def _every(node: Any, key: str) -> Iterator[Any]:
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        yield from (found for child in node.values() for found in _every(child, key))
    elif isinstance(node, list):
        yield from (found for child in node for found in _every(child, key))


def test_the_link_to_the_logs_asks_for_the_pods_of_the_job() -> None:
    (url,) = (link["url"] for link in BOARDS["finetune-job"]["links"] if link["type"] == "link")
    for name, value in (VARIABLES | {"${logs}": "P1", "${__from}": "1", "${__to}": "2"}).items():
        url = url.replace(name, value)
    (pane,) = json.loads(parse_qs(urlsplit(url).query)["panes"][0]).values()
    assert pane["datasource"] == "P1"
    assert pane["range"] == {"from": "1", "to": "2"}
    assert pane["queries"][0]["expr"] == '{namespace="demo", pod=~"movie-sentiment-.+"}'


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_fill_the_grid_and_have_numbers_of_their_own(uid: str) -> None:
    numbers = [panel["id"] for panel in BOARDS[uid]["panels"]]
    assert numbers == list(range(1, len(numbers) + 1))
    taken = [cell for panel in BOARDS[uid]["panels"] for cell in _cells(panel["gridPos"])]
    assert len(taken) == len(set(taken)), "panels overlap"
    assert len(taken) % 24 == 0, "a row of panels is not full"


def _cells(place: Json) -> Iterator[tuple[int, int]]:
    return (
        (place["x"] + column, place["y"] + line) for column in range(place["w"]) for line in range(place["h"])
    )


def test_the_chart_has_a_config_map_for_each_when_asked() -> None:
    assert not list(Rendered.of().all("ConfigMap"))
    values = {
        "dashboards": {
            "enabled": True,
            "namespace": "monitoring",
            "labels": {"release": "prometheus"},
            "annotations": {"grafana_folder": "Fine-tuning"},
        }
    }
    maps = list(Rendered.of(values).all("ConfigMap"))
    assert sorted(one["metadata"]["name"] for one in maps) == [
        "finetune-operator-fleet-dashboard",
        "finetune-operator-job-dashboard",
        "finetune-operator-operator-dashboard",
        "finetune-operator-search-dashboard",
    ]
    for one in maps:
        assert one["metadata"]["namespace"] == "monitoring"
        assert (
            one["metadata"]["labels"].items() >= {"grafana_dashboard": "1", "release": "prometheus"}.items()
        )
        assert one["metadata"]["annotations"] == {"grafana_folder": "Fine-tuning"}
        ((name, text),) = one["data"].items()
        assert json.loads(text) == BOARDS[name.removesuffix(".json")]
