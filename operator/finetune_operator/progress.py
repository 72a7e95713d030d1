"""The endpoint that trainers report to: who may report, and what a report says. Losing one is never a failure.

A report is accepted when its bearer token, made for this audience, belongs to a living pod of the newest attempt of
a FineTuneJob; the pod decides for which job it speaks, so no job can speak for another. It understands the body
that Hugging Face's Trainer sends by itself (`trainerStatus`) and our trainer's superset (`runReport`).
"""

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from aiohttp import ClientError, web

from finetune_api.run import RunReport
from finetune_api.status import ProgressStatus
from finetune_operator import lenient
from finetune_operator.cache import Cache, Child, JobKey, labels_in, owner_of, uid_of
from finetune_operator.cluster import Cluster
from finetune_operator.errors import ApiError
from finetune_operator.plan.naming import ATTEMPT

logger = logging.getLogger(__name__)

PATH = "/v1/progress"
_BODY_LIMIT = 64 * 1024
_TOKEN_TRUST = 60.0
_SHORTEST_PAUSE = 0.25
_REVIEWS = 16
_LARGEST_COUNT = 9_007_199_254_740_991
_POD_UID = "authentication.kubernetes.io/pod-uid"
_KNOWN_METRICS = {
    "loss",
    "grad_norm",
    "learning_rate",
    "current_step",
    "total_steps",
    "current_epoch",
    "epoch",
}


class Reports:
    """The newest report of every job that trains."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[RunReport, datetime]] = {}

    def get(self, uid: str) -> tuple[RunReport, datetime] | None:
        """A job's newest report and when it came."""
        return self._reports.get(uid)

    def put(self, uid: str, report: RunReport, now: datetime) -> None:
        """Take up a report."""
        self._reports[uid] = (report, now)

    def forget(self, uid: str) -> None:
        """The attempt is closed."""
        self._reports.pop(uid, None)


class ProgressEndpoint:
    """Handles POSTs of trainers."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        reports: Reports,
        audience: str,
        tell: Callable[[JobKey], None],
        now: Callable[[], datetime],
    ) -> None:
        self._cluster, self._cache, self._reports = cluster, cache, reports
        self._audience, self._tell, self._now = audience, tell, now
        self._reviews = asyncio.Semaphore(_REVIEWS)
        self._trusted: dict[str, tuple[str, float]] = {}
        self._last: dict[str, float] = {}

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application(client_max_size=_BODY_LIMIT)
        app.router.add_post(PATH, self._post)
        return app

    async def _post(self, request: web.Request) -> web.Response:
        pod = self._pod(await self._pod_uid(request.headers.get("Authorization", "")))
        if pod is None:
            raise web.HTTPForbidden(
                text="the token belongs to no running pod of a FineTuneJob's newest attempt"
            )
        owner, key = owner_of(pod.body)
        assert owner
        assert key
        if time.monotonic() - self._last.get(owner, -math.inf) < _SHORTEST_PAUSE:
            raise web.HTTPTooManyRequests(text="four reports a second are enough")
        report = _read(await request.read())
        self._note(owner)
        # which attempt it speaks of is the pod's to say, not the report's
        report = report.model_copy(update={"attempt": int(labels_in(pod.body)[ATTEMPT])})
        self._reports.put(owner, report, self._now())
        self._tell(key)
        return web.json_response({})

    async def _pod_uid(self, authorization: str) -> str:
        """The uid of the pod that a token was made for. Raises 401."""
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" or not token:
            raise web.HTTPUnauthorized(text="a bearer token is needed")
        digest = hashlib.sha256(token.encode()).hexdigest()
        uid, until = self._trusted.get(digest, ("", 0.0))
        if time.monotonic() < until:
            return uid
        reviewed = await self._review(token)
        if reviewed is None:
            raise web.HTTPUnauthorized(text="the token is not a pod's token for this audience")
        self._trust(digest, reviewed)
        return reviewed

    async def _review(self, token: str) -> str | None:
        """Ask the API server. Strangers may send any number of tokens: few are reviewed at the same time."""
        if self._reviews.locked():
            raise web.HTTPTooManyRequests(text="too many new tokens at once; try again")
        try:
            async with self._reviews:
                status = await self._cluster.review_token(token, self._audience)
        except (ApiError, ClientError, TimeoutError) as error:
            raise web.HTTPServiceUnavailable(text="the token cannot be reviewed now; try again") from error
        if not status.get("authenticated") or self._audience not in status.get("audiences", []):
            return None
        uids = status.get("user", {}).get("extra", {}).get(_POD_UID) or [None]
        return str(uids[0]) if uids[0] else None

    def _note(self, owner: str) -> None:
        now = time.monotonic()
        self._last = {key: last for key, last in self._last.items() if now - last < _SHORTEST_PAUSE}
        self._last[owner] = now

    def _trust(self, digest: str, uid: str) -> None:
        now = time.monotonic()
        self._trusted = {key: value for key, value in self._trusted.items() if value[1] > now}
        self._trusted[digest] = (uid, now + _TOKEN_TRUST)

    def _pod(self, uid: str) -> Child | None:
        """The pod, if it belongs to the newest attempt of a job that we know."""
        for pods in self._cache.children["Pod"].values():
            for pod in pods.values():
                if uid_of(pod.body) == uid and not pod.gone:
                    return pod if self._newest(pod) else None
        return None

    def _newest(self, pod: Child) -> bool:
        """The labels of a pod may name a job of another namespace: its own namespace's job has to have that uid."""
        owner, key = owner_of(pod.body)
        body = self._cache.jobs.get(key) if key else None
        if body is None or uid_of(body) != owner:
            return False
        attempt = (body.get("status") or {}).get("attempt")
        return bool(str(attempt) == labels_in(pod.body).get(ATTEMPT))


def _read(text: bytes) -> RunReport:
    """The report in a body. Raises 400."""
    try:
        return report_of(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"the report cannot be understood: {error}") from error


def report_of(body: Any) -> RunReport:
    """The report in a POST. Raises ValueError."""
    if not isinstance(body, dict):
        raise ValueError("an object is needed")
    if "runReport" in body:
        report, left_out = lenient.read(RunReport, body["runReport"])
        if report == RunReport() or "version" in left_out:
            raise ValueError(f"runReport has nothing that can be read; look at {', '.join(left_out)}")
        return report
    if not isinstance(body.get("trainerStatus"), dict):
        raise ValueError("trainerStatus is missing")
    return RunReport(progress=_progress(body["trainerStatus"]))


def _progress(status: dict[str, Any]) -> ProgressStatus:
    """A Hugging Face Trainer's status; its metric values are texts."""
    numbers = dict(_numbers(status.get("metrics")))
    rest = {name: value for name, value in numbers.items() if name not in _KNOWN_METRICS}
    percent = _number(status.get("progressPercentage"))
    return ProgressStatus(
        percent=None if percent is None else int(min(100, max(0, percent))),
        eta_seconds=_count(_number(status.get("estimatedRemainingSeconds"))),
        step=_count(numbers.get("current_step")),
        total_steps=_count(numbers.get("total_steps")),
        epoch=numbers.get("current_epoch", numbers.get("epoch")),
        loss=numbers.get("loss"),
        learning_rate=numbers.get("learning_rate"),
        grad_norm=numbers.get("grad_norm"),
        metrics=dict(list(rest.items())[:32]) or None,
    )


def _numbers(metrics: Any) -> Iterator[tuple[str, float]]:
    """The metrics that are finite numbers; a script may report texts, for which no column has a place."""
    for metric in metrics if isinstance(metrics, list) else []:
        if isinstance(metric, dict) and isinstance(metric.get("name"), str):
            value = _number(metric.get("value"))
            if value is not None:
                yield metric["name"][:64], value


def _number(value: Any) -> float | None:
    """A finite number, written as one or as a text."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _count(value: float | None) -> int | None:
    """As a count; None for what is none."""
    return int(value) if value is not None and 0 <= value <= _LARGEST_COUNT else None
