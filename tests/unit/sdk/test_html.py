"""A job in a notebook: nothing of it is markup, and every point of a curve is inside the picture."""

import re
from xml.etree import ElementTree

import pytest

from finetune_api.status import FineTuneJobStatus
from finetune_sdk.html import HEIGHT, WIDTH, curves, page


def test_texts_are_escaped_and_the_page_is_well_formed() -> None:
    status = FineTuneJobStatus.from_json(
        {
            "progress": {"percent": 40},
            "display": {"best": "<b>"},
            "epochs": [{"epoch": 1.0, "step": 1, "trainLoss": 0.5, "evalLoss": 0.4}],
            "model": {"uri": "pvc://a/<x>", "format": "safetensors", "metrics": {"<m>": 1.0}},
        }
    )
    text = page("job", "Running", "row <script>alert(1)</script>", status)
    ElementTree.fromstring(text.replace("<br>", "<br/>"))
    assert "<script>" not in text
    assert "width:40%" in text
    assert "best &lt;b&gt;" in text


@pytest.mark.parametrize(
    "points",
    [[(1.0, 0.5)], [(1.0, 0.5), (2.0, 0.5)], [(0.1, -3.0), (50.0, 1e9), (20.0, 1e-9)]],
    ids=["one", "a constant", "far apart"],
)
def test_every_point_is_inside(points: list[tuple[float, float]]) -> None:
    drawn = curves({"loss": points})
    found = re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"', drawn)
    assert len(found) == len(points)
    assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in found)


def test_without_a_point_there_is_no_picture() -> None:
    assert curves({}) == curves({"loss": []}) == ""
