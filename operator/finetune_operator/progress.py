"""The endpoint for the trainers' progress reports, and its authentication. A lost report is never a failure.

A report is accepted if its bearer token has this audience and belongs to a running pod of a FineTuneJob's newest
attempt. The pod determines the job, so no job can report for another.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from aiohttp import ClientError, web
from aiohttp.typedefs import Middleware
from cachetools import TTLCache

from finetune_api.run import ProgressAnswer, Prune, RunReport
from finetune_core.decide.observation import PodView
from finetune_core.decide.report_body import parse_report
from finetune_operator.cache import Cache, Child, Key, uid_of
from finetune_operator.cluster import Cluster, RateLimiter
from finetune_operator.errors import ApiError
from finetune_operator.reports import Reports

logger = logging.getLogger(__name__)

Body = dict[str, Any]

PATH = "/v1/progress"
_BODY_LIMIT = 64 * 1024
_TOKEN_TRUST, _TOKEN_LIFE, _REFUSAL_TRUST = 60.0, 3600.0, 10.0
_REPORTS, _WINDOW = 4, 1.0
_REVIEWS = 16
_NEW_TOKENS_PER_SECOND = 200
"""Anybody may send tokens: reviews of unknown ones leave most of the requests to the API server to the reconciles."""
_POD_UID = "authentication.kubernetes.io/pod-uid"
_REMEMBERED = 20_000
"""Tokens and jobs to remember: more than pods that train at once. A forgotten token is reviewed again."""


class ProgressEndpoint:
    """Handles POSTs of trainers."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        reports: Reports,
        audience: str,
        enqueue: Callable[[Key], None],
        why_pruned: Callable[[Body, RunReport], Awaitable[str | None]],
        now: Callable[[], datetime],
    ) -> None:
        self._cluster, self._cache, self._reports = cluster, cache, reports
        cache.on_drop = reports.forget
        self._audience, self._enqueue, self._why_pruned, self._now = audience, enqueue, why_pruned, now
        self._reviews, self._renewals = asyncio.Semaphore(_REVIEWS), asyncio.Semaphore(_REVIEWS)
        self._pace = RateLimiter(_NEW_TOKENS_PER_SECOND, _NEW_TOKENS_PER_SECOND)
        self._pod_uids: TTLCache[str, str] = TTLCache(_REMEMBERED, _TOKEN_TRUST)
        self._accepted: TTLCache[str, bool] = TTLCache(_REMEMBERED, _TOKEN_LIFE)
        self._refused: TTLCache[str, bool] = TTLCache(_REMEMBERED, _REFUSAL_TRUST)
        self._reported: TTLCache[str, list[datetime]] = TTLCache(_REMEMBERED, _WINDOW)

    def app(self, *middlewares: Middleware) -> web.Application:
        """The web application."""
        app = web.Application(client_max_size=_BODY_LIMIT, middlewares=middlewares)
        app.router.add_post(PATH, self._post)
        return app

    async def _post(self, request: web.Request) -> web.Response:
        pod = self._pod(await self._pod_uid(request.headers.get("Authorization", "")))
        if pod is None:
            raise web.HTTPForbidden(
                text="the token does not belong to a running pod of a FineTuneJob's newest attempt"
            )
        arrived = self._reported.setdefault(pod.owner, [])
        if len(arrived) >= _REPORTS:
            raise web.HTTPTooManyRequests(text="at most four reports per second")
        report = _read(await request.read())
        # the pod's label decides which attempt this is, not the report
        report = report.model_copy(update={"attempt": pod.view.attempt})
        arrived.append(self._now())
        assert isinstance(pod.view, PodView)
        self._reports.put(pod.owner, report, arrived[-1], pod.view.name, pod.view.index)
        self._enqueue(pod.key)
        reason = await self._reason_to_prune(self._cache.finetunejobs[pod.key], report)
        answer = ProgressAnswer(prune=Prune(reason=reason) if reason else None)
        return web.json_response(answer.to_json())

    async def _reason_to_prune(self, body: Body, report: RunReport) -> str | None:
        """Losing an answer fails nothing: the next report asks again."""
        try:
            return await self._why_pruned(body, report)
        except (ApiError, ClientError, TimeoutError) as error:
            logger.warning("cannot decide whether to prune %s: %r", body["metadata"]["name"], error)
            return None

    async def _pod_uid(self, authorization: str) -> str:
        """The uid of the pod that a token was made for. Raises 401."""
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" or not token:
            raise web.HTTPUnauthorized(text="a bearer token is required")
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
        if known := self._pod_uids.get(digest):
            return known
        uid = None if digest in self._refused else await self._review(token, known=digest in self._accepted)
        if uid is None:
            self._refused[digest] = True
            raise web.HTTPUnauthorized(text="the token is not a pod's token for this audience")
        self._pod_uids[digest], self._accepted[digest] = uid, True
        return uid

    async def _review(self, token: str, *, known: bool) -> str | None:
        """Ask the API server. Unknown tokens wait for each other, and those that were accepted before for none of them.

        No more wait than there are connections, as the end of its connection cancels a request.
        """
        try:
            async with self._renewals if known else self._reviews:
                if not known:
                    await self._pace()
                status = await self._cluster.review_token(token, self._audience)
        except (ApiError, ClientError, TimeoutError) as error:
            raise web.HTTPServiceUnavailable(text="the token cannot be reviewed now; retry later") from error
        if not status.get("authenticated") or self._audience not in status.get("audiences", []):
            return None
        uids = status.get("user", {}).get("extra", {}).get(_POD_UID) or [None]
        return str(uids[0]) if uids[0] else None

    def _pod(self, uid: str) -> Child | None:
        """The pod, if it belongs to the newest attempt of a job that we know."""
        pod = self._cache.pod(uid)
        return pod if pod and self._newest(pod) else None

    def _newest(self, pod: Child) -> bool:
        """A pod's labels may name a job in another namespace; the job in the pod's own namespace must have that uid."""
        body = self._cache.finetunejobs.get(pod.key)
        if body is None or uid_of(body) != pod.owner:
            return False
        attempt = (body.get("status") or {}).get("attempt")
        return pod.view.attempt > 0 and attempt == pod.view.attempt


def _read(text: bytes) -> RunReport:
    """The report in a body. Raises 400."""
    try:
        return parse_report(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"invalid report: {error}") from error
