"""A job as HTML for a notebook: progress, figures and loss curve, without scripts or files. Pure."""

from collections.abc import Iterator, Sequence
from html import escape

from finetune_api.status import FineTuneJobStatus

WIDTH, HEIGHT, MARGIN = 480, 160, 28
_COLOURS = {"train loss": "#1f77b4", "eval loss": "#d62728"}
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


def curves(lines: dict[str, Points]) -> str:
    """The lines as SVG with the range of both axes; empty without a point."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    (left, right), (low, high) = _range([x for x, _ in points]), _range([y for _, y in points])
    body = "".join(
        _line(
            label, [(_scaled(x, left, right, WIDTH), HEIGHT - _scaled(y, low, high, HEIGHT)) for x, y in line]
        )
        for label, line in lines.items()
    )
    texts = [
        (2, 12, f"{high:.4g}"),
        (2, HEIGHT - 8, f"{low:.4g}"),
        (MARGIN, HEIGHT + 12, f"epoch {left:g}"),
        (WIDTH - 60, HEIGHT + 12, f"epoch {right:g}"),
    ] + [(MARGIN + 40 + 110 * at, 12, label) for at, label in enumerate(lines)]
    labels = "".join(
        f'<text x="{x}" y="{y}" font-size="11" fill="{_COLOURS.get(text, "#555")}">{escape(text)}</text>'
        for x, y, text in texts
    )
    return f'<svg width="{WIDTH}" height="{HEIGHT + 18}" role="img" aria-label="loss curves">{body}{labels}</svg>'


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


def _line(label: str, points: Points) -> str:
    colour = _COLOURS.get(label, "#555")
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>{dots}'
