"""Prometheus' text format, written sample by sample.

The client library makes objects of all samples first, which with thousands of jobs takes twice the memory.
"""

from collections.abc import Iterable
from io import BytesIO

from prometheus_client.utils import floatToGoString

from finetune_api.exposition import Metric

Part = bytes | memoryview
"""Some of a page's text, in UTF-8."""

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Page:
    """Samples, which may come in any order; those of a metric stand together."""

    def __init__(self) -> None:
        self._texts: dict[str, BytesIO] = {}

    def add(self, metric: Metric, labels: Iterable[str], value: float) -> None:
        """A sample; `labels` are the values of the metric's labels, in their order."""
        text = self._texts.get(metric.name)
        if text is None:
            text = self._texts[metric.name] = BytesIO()
            help_text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
            text.write(f"# HELP {metric.name} {help_text}\n# TYPE {metric.name} {metric.kind}\n".encode())
        pairs = zip(metric.labels, labels, strict=True)
        given = ",".join([f'{name}="{found.translate(_ESCAPES)}"' for name, found in pairs])
        number = floatToGoString(value)  # type: ignore[no-untyped-call]
        text.write(f"{metric.name}{f'{{{given}}}' if given else ''} {number}\n".encode())

    def parts(self) -> list[memoryview]:
        """The text of each metric."""
        return [text.getbuffer() for text in self._texts.values()]
