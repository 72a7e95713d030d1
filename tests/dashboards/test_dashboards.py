"""The dashboards pass Grafana's published types, and Grafana's own components draw them from a real Prometheus."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from chart.rendering import CHART
from dashboards import backfill
from dashboards.drawing import Picture, draw, schemas
from dashboards.server import serving

Json = dict[str, Any]
BOARDS: dict[str, Json] = {
    file.stem: json.loads(file.read_text()) for file in sorted((CHART / "dashboards").glob("*.json"))
}
FOREIGN = {"target", "titleFormat"}
"""Fields of an annotation that belong to its data source; the published type knows those of Grafana's own only."""

pytestmark = pytest.mark.timeout(600)  # the first use installs the npm packages


def faults(kind: str, part: Any) -> list[str]:
    """What a part of a dashboard has against the published type."""
    found = Draft7Validator(schemas()[kind]).iter_errors(part)
    return [
        f"{kind}{''.join(f'[{step!r}]' for step in one.absolute_path)}: {one.message[:200]}" for one in found
    ]


def faults_of_panel(panel: Json) -> list[str]:
    """What a panel has, with the options of its kind."""
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    fields = faults(f"{panel['type']}Field", custom) if panel["type"] in ("table", "timeseries") else []
    return [*faults("panel", panel), *faults(panel["type"], panel["options"]), *fields]


def without_foreign(board: Json) -> Json:
    """A dashboard without its panels and without what belongs to a data source."""
    marks = [
        {key: value for key, value in one.items() if key not in FOREIGN}
        for one in board["annotations"].get("list", [])
    ]
    return board | {"panels": [], "annotations": {"list": marks}}


@pytest.mark.parametrize("uid", BOARDS)
def test_a_dashboard_passes_the_types_that_grafana_publishes(uid: str) -> None:
    panels = [panel for panel in BOARDS[uid]["panels"] if panel["type"] != "row"]
    assert faults("board", without_foreign(BOARDS[uid])) == []
    assert [fault for panel in panels for fault in faults_of_panel(panel)] == []


def test_a_wrong_option_is_found() -> None:
    panel = next(panel for panel in BOARDS["finetune-job"]["panels"] if panel["type"] == "stat")
    wrong = panel | {"options": panel["options"] | {"graphMode": "mountain"}}
    (fault,) = faults_of_panel(wrong)
    assert "graphMode" in fault


def test_every_query_has_data_where_every_metric_has_some(tmp_path: Path) -> None:
    backfill.write(tmp_path)
    variables = {"namespace": backfill.NAMESPACE, "job": backfill.JOB}
    pictures = [
        Picture(board, tmp_path / f"{uid}.png", backfill.BEGIN, backfill.END, variables)
        for uid, board in BOARDS.items()
    ]
    with serving(tmp_path, {}) as url:
        drawn = draw(pictures, url, backfill.STEP)
    empty = [
        (title, panel) for title, found in drawn.items() for panel, points in found.items() if 0 in points
    ]
    assert empty == []
    for picture in pictures:
        assert picture.file.read_bytes().startswith(b"\x89PNG")
