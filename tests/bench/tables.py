"""Tables as docs/benchmarks.md has them. Called by the benches of the trainer."""

import statistics
from typing import Any


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line for each row; the keys of the first are the header."""
    if not rows:
        return ""
    cells = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation where there are several."""
    mean = statistics.mean(values)
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{mean:.3f}"
