"""Draws curves: in the terminal, as a picture, or as a page."""

from collections.abc import Callable
from html import escape
from pathlib import Path

from finetune_cli.curves import Curve
from finetune_cli.errors import CommandError
from finetune_sdk.html import curves as svg

_SIZE = (100, 24)
_MARKS, _COLOURS = "●■▲◆○□△◇", ("red", "blue", "green", "magenta", "orange", "cyan")


def in_terminal(curves: list[Curve], title: str, width: int) -> str:
    """The curves as text; without colours where `NO_COLOR` or the output asks for it, which the caller strips."""
    import plotext

    plotext.clear_figure()
    plotext.plot_size(min(width, _SIZE[0]), _SIZE[1])
    for number, curve in enumerate(curves):
        xs, ys = zip(*curve.points, strict=True)
        colour = _COLOURS[number % len(_COLOURS)]
        plotext.plot(list(xs), list(ys), marker="braille", color=colour)
        mark = _MARKS[number % len(_MARKS)]
        plotext.scatter(list(xs), list(ys), label=curve.label, marker=mark, color=colour)
    plotext.title(title)
    plotext.xlabel("epoch")
    return str(plotext.build())


def plain(text: str) -> str:
    """Without colours."""
    import plotext

    return str(plotext.uncolorize(text))


def to_file(curves: list[Curve], title: str, file: Path) -> None:
    """Write a picture or a page, as the ending says. Raises CommandError."""
    writer = _WRITERS.get(file.suffix.lower())
    if writer is None:
        raise CommandError(f"--output {file}: the ending must be one of {', '.join(_WRITERS)}")
    try:
        writer(curves, title, file)
    except OSError as error:
        raise CommandError(f"--output {file}: {error.strerror or error}") from error


def _picture(curves: list[Curve], title: str, file: Path) -> None:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise CommandError(
            f"--output {file}: pictures need matplotlib; pip install matplotlib, or write .html"
        ) from error
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for curve in curves:
        xs, ys = zip(*curve.points, strict=True)
        axes.plot(xs, ys, marker="o", label=curve.label)
    axes.set(title=title, xlabel="epoch")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def _page(curves: list[Curve], title: str, file: Path) -> None:
    drawing = svg({curve.label: curve.points for curve in curves})
    rows = "".join(
        f"<tr><td>{escape(curve.label)}</td><td>{x:g}</td><td>{y:.6g}</td></tr>"
        for curve in curves
        for x, y in curve.points
    )
    file.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<body style="font-family:sans-serif">'
        f"<h1>{escape(title)}</h1>{drawing}<table><tr><th>curve</th><th>epoch</th><th>value</th></tr>{rows}</table>\n",
        encoding="utf-8",
    )


_WRITERS: dict[str, Callable[[list[Curve], str, Path], None]] = {
    ".png": _picture,
    ".svg": _picture,
    ".pdf": _picture,
    ".html": _page,
}
