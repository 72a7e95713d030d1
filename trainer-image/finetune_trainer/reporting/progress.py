"""Posts progress to the operator in the background; a response may prune the run.

A lost report never fails the run; the log says so once.

The body is a superset of what transformers' own Kubeflow callback posts, so one endpoint serves both.
"""

import json
import logging
import ssl
import threading
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.run import PROGRESS_BYTES, ProgressAnswer, ProgressEndpoint, RunReport, to_message

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
TIMEOUT_SECONDS = 5.0
ANSWER_BYTES = 64 * 1024


def body_of(report: RunReport, now: datetime) -> dict[str, Any]:
    """The JSON of a POST: numbers of the metrics as texts, as Kubeflow has it, and the report as far as it fits."""
    progress = report.progress
    status: dict[str, Any] = {"metrics": [], "lastUpdatedTime": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
    if progress is not None:
        status["progressPercentage"] = progress.percent
        status["estimatedRemainingSeconds"] = progress.eta_seconds
        numbers = {"loss": progress.loss, "learning_rate": progress.learning_rate, "epoch": progress.epoch}
        status["metrics"] = [
            {"name": name, "value": str(value)} for name, value in numbers.items() if value is not None
        ]
    if report.epochs:
        newest = report.epochs[-1]
        numbers = {"eval_loss": newest.eval_loss, **{f"eval_{k}": v for k, v in newest.metrics.items()}}
        status["metrics"] += [{"name": k, "value": str(v)} for k, v in numbers.items() if v is not None]
    return {
        "trainerStatus": {key: value for key, value in status.items() if value is not None},
        "runReport": json.loads(to_message(report, PROGRESS_BYTES)),
    }


class ProgressClient:
    """Sends the newest report, at most one every `interval` seconds."""

    def __init__(
        self,
        endpoint: ProgressEndpoint,
        prune: Callable[[str], None],
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        self._endpoint, self._prune, self._interval = endpoint, prune, interval
        self._newest: RunReport | None = None
        self._wake, self._closing = threading.Event(), threading.Event()
        self._failed = self._misread = False
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def offer(self, report: RunReport) -> None:
        """Replace what is sent next; returns at once."""
        self._newest = report
        self._wake.set()

    def close(self) -> None:
        """Send what is left and end; waits for one POST at most."""
        self._closing.set()
        self._wake.set()
        self._thread.join(TIMEOUT_SECONDS + 1)

    def _run(self) -> None:
        while not (self._closing.is_set() and self._newest is None):
            self._wake.wait()
            self._wake.clear()
            report, self._newest = self._newest, None
            if report is not None:
                self._send(report)
                self._closing.wait(self._interval)

    def _send(self, report: RunReport) -> None:
        body = json.dumps(body_of(report, datetime.now(UTC)), ensure_ascii=False).encode()
        try:
            code, answer = self._post(body)
            failure = None if code == 200 else f"it responded with HTTP {code}"
        except (OSError, ValueError, HTTPException) as error:
            failure = str(error)
        if failure is None:
            self._failed = False
            self._handle_answer(answer)
        elif not self._failed:
            self._failed = True
            logger.warning(f"cannot report progress to {self._endpoint.url}: {failure}; training continues")

    def _handle_answer(self, answer: bytes) -> None:
        try:
            asked = ProgressAnswer.model_validate_json(answer or b"{}").prune
        except ValidationError as error:
            if not self._misread:
                self._misread = True
                reason = error.errors(include_url=False)[0]["msg"]
                logger.warning(
                    f"ignoring an invalid response from {self._endpoint.url}: {reason}; training continues"
                )
            return
        if asked is not None:
            self._prune(asked.reason)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        """One POST: status code and response. Reads token and authority each time, because the kubelet renews them."""
        if not self._endpoint.url.startswith("https://"):
            raise ValueError("the URL is not HTTPS")
        token = Path(self._endpoint.token_path).read_text().strip()
        context = ssl.create_default_context(cafile=self._endpoint.ca_path)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._endpoint.url, body, headers, method="POST")  # noqa: S310
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_SECONDS) as answer:
            return int(answer.status), answer.read(ANSWER_BYTES)
