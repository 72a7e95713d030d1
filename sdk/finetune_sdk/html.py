"""A job as HTML for a notebook: progress, figures and loss curve, without scripts or files. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from finetune_api.status import FineTuneJobStatus

WIDTH, HEIGHT, MARGIN = 520, 180, 44
_COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
_BAR = {"Succeeded": "#2e7d32", "Failed": "#c62828", "Suspended": "#757575"}

Points = Sequence[tuple[float, float]]


def page(name: str, phase: str, message: str, status: FineTuneJobStatus) -> str:
    """Name, phase and message, a progress bar, the result's metrics, and the losses over the epochs."""
    percent = (status.progress.percent if status.progress else None) or 0
    percent = 100 if phase == "Succeeded" else percent
    parts = [
        f"<b>{escape(name)}</b> {escape(phase)}: {escape(message)}",
        f'<div style="background:#ddd;width:{WIDTH}px;height:8px"><div style="background:'
        f'{_BAR.get(phase, "#1565c0")};width:{percent}%;height:8px"></div></div>',
        *_figures(status),
        curves({label: points for label, points in _losses(status).items() if points}),
    ]
    return "<div>" + "<br>".join(part for part in parts if part) + "</div>"


def curves(lines: Mapping[str, Points]) -> str:
    """The lines as SVG with the range of both axes and a legend; empty without a point."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    (left, right), (low, high) = _range([x for x, _ in points]), _range([y for _, y in points])
    drawn, legend = "", ""
    for number, (label, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn += _line(
            colour,
            [
                (_scaled(x, left, right, WIDTH), HEIGHT - _scaled(y, low, high, HEIGHT))
                for x, y in sorted(line)
            ],
        )
        legend += f'<span style="color:{colour}">●</span> {escape(label)} '
    texts = [
        (2, MARGIN + 4, f"{high:.4g}"),
        (2, HEIGHT - MARGIN + 4, f"{low:.4g}"),
        (MARGIN, HEIGHT + 12, f"epoch {left:g}"),
        (WIDTH - 80, HEIGHT + 12, f"epoch {right:g}"),
    ]
    labels = "".join(
        f'<text x="{x}" y="{y}" font-size="11" fill="#555">{text}</text>' for x, y, text in texts
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT + 18}" role="img" aria-label="curves">{drawn}{labels}</svg>'
        f"<div>{legend.strip()}</div>"
    )


def _losses(status: FineTuneJobStatus) -> dict[str, Points]:
    return {
        "train loss": [(one.epoch, one.train_loss) for one in status.epochs if one.train_loss is not None],
        "eval loss": [(one.epoch, one.eval_loss) for one in status.epochs if one.eval_loss is not None],
    }


def _figures(status: FineTuneJobStatus) -> Iterator[str]:
    display = status.display
    shown = (
        [("epoch", display.epoch), ("loss", display.loss), ("best", display.best), ("ETA", display.eta)]
        if display
        else []
    )
    if texts := [f"{label} {escape(value)}" for label, value in shown if value]:
        yield ", ".join(texts)
    if status.model:
        metrics = ", ".join(
            f"{escape(name)} {value:.4g}" for name, value in sorted(status.model.metrics.items())
        )
        yield f"<code>{escape(status.model.uri or '')}</code> {metrics}"


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _scaled(value: float, low: float, high: float, size: int) -> float:
    return MARGIN + (value - low) / (high - low) * (size - 2 * MARGIN)


def _line(colour: str, points: Points) -> str:
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>{dots}'
