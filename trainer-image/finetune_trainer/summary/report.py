"""Writes the report of a search into a folder: report.html, which holds everything, and its plots as pictures."""

import logging
from pathlib import Path

from finetune_api.run import JobIdentity
from finetune_api.search_history import SearchHistory
from finetune_api.status import CombinationStatus
from finetune_trainer.errors import storage_errors
from finetune_trainer.files import sync
from finetune_trainer.summary.page import Picture, page
from finetune_trainer.summary.plots import Plot, plots
from finetune_trainer.summary.plots.figure import png_of

REPORT = "report.html"

logger = logging.getLogger(__name__)


def write_report(
    history: SearchHistory,
    job: JobIdentity,
    model: str = "",
    combination: CombinationStatus | None = None,
) -> list[str]:
    """Write the report; returns a sentence about every plot that could not be drawn.

    `model` is a sentence about the job's model, if that is not the best trial's, and `combination` what it reaches.
    Files that are there already with the same content are left alone. Raises StorageError.
    """
    pictures, caveats = [], []
    for plot in plots(combination):
        picture, caveat = _drawn(plot, history)
        pictures.append(picture)
        caveats += [caveat] if caveat else []
    folder = Path(history.report_dir)
    files = {f"{picture.name}.png": picture.png for picture in pictures if picture.png}
    files[REPORT] = page(history, job, pictures, model).encode()
    with storage_errors("the report of the search", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            _put(folder / name, content)
        sync(folder)
    return caveats


def _drawn(plot: Plot, history: SearchHistory) -> tuple[Picture, str | None]:
    """The picture, or why there is none; and a sentence for a plot that failed."""
    absent = plot.absent(history)
    if absent:
        return Picture(plot.name, plot.title, plot.explanation, None, absent), None
    try:
        png = png_of(plot.draw, history)
    except Exception as error:
        logger.warning(f"the plot {plot.name} failed", exc_info=True)
        caveat = f"the plot {plot.name} of the report could not be drawn: {type(error).__name__}: {error}"
        return Picture(plot.name, plot.title, plot.explanation, None, caveat), caveat
    return Picture(plot.name, plot.title, plot.explanation, png), None


def _put(path: Path, content: bytes) -> None:
    """Replace a file at once, unless it has this content already."""
    if path.is_file() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    sync(temporary)
    temporary.replace(path)
