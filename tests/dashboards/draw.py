"""Draws docs/images/dashboard-*.png from what record.py left: `python tests/dashboards/draw.py FOLDER`."""

import json
import sys
from pathlib import Path

from PIL import Image

from chart.rendering import CHART
from dashboards.drawing import Picture, draw
from dashboards.record import NAMESPACE
from dashboards.server import INTERVAL, serving

IMAGES = CHART.parents[1] / "docs" / "images"
VARIABLES = {
    "fleet": {"namespace": ".*"},
    "job": {"namespace": NAMESPACE, "job": "movie-sentiment"},
    "operator": {},
    "search": {"namespace": NAMESPACE, "job": "tune-sentiment"},
}


def pictures(folder: Path) -> list[Picture]:
    """One of each dashboard, over the whole recording."""
    period = json.loads((folder / "period.json").read_text())
    return [
        Picture(
            json.loads((CHART / "dashboards" / f"finetune-{name}.json").read_text()),
            IMAGES / f"dashboard-{name}.png",
            period["from"],
            period["to"],
            variables,
        )
        for name, variables in VARIABLES.items()
    ]


def main(folder: Path) -> None:
    """Draw, and print the panels without data."""
    asked = pictures(folder)
    with serving(folder, {"global": {"scrape_interval": f"{INTERVAL}s"}}) as url:
        for board, panels in draw(asked, url, INTERVAL).items():
            print(
                f"{board}: {len(panels)} panels; without data: {[t for t, points in panels.items() if not any(points)]}"
            )
    for one in asked:
        with Image.open(one.file) as picture:
            picture.convert("RGB").quantize(128).save(one.file, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
