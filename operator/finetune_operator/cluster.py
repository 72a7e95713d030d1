"""The only Kubernetes client: get, list, create, delete, write a status, review a token. Bodies are plain dicts.

It uses `kubernetes.aio` for configuration, credentials and transport, and none of its typed models, which cost
370 ms per thousand pods. Requests pass a token bucket, so that a bug in the operator cannot flood the API server.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

from aiohttp import ClientSession, TraceConfig, TraceRequestChunkSentParams, TraceRequestHeadersSentParams

from finetune_api import API_VERSION, GROUP, KIND, PLURAL
from finetune_core.settings import OperatorSettings
from finetune_operator.errors import AlreadyExistsError, ApiError, Cause, ConflictError, NotFoundError

Body = dict[str, Any]
Observer = Callable[[str, int], None]
_Sent = TraceRequestHeadersSentParams | TraceRequestChunkSentParams

_TIMEOUT = 30.0
PAGE = 20
"""Objects per page: with 1.5 MiB each, the limit of etcd, a page has 30 MiB."""

PATHS = {
    "FineTuneJob": ("apis/" + API_VERSION, PLURAL),
    "Job": ("apis/batch/v1", "jobs"),
    "Pod": ("api/v1", "pods"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Service": ("api/v1", "services"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "Secret": ("api/v1", "secrets"),
    "Event": ("api/v1", "events"),
    "Workload": ("apis/kueue.x-k8s.io/v1beta2", "workloads"),
    "ResourceClaimTemplate": ("apis/resource.k8s.io/v1", "resourceclaimtemplates"),
    "Node": ("api/v1", "nodes"),
    "Lease": ("apis/coordination.k8s.io/v1", "leases"),
}


class RateLimiter:
    """A token bucket: `rate` requests a second, `burst` at once."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._time = float(burst), clock()

    async def __call__(self) -> None:
        """Wait for a token."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._time) * self._rate)
        self._time = now
        self._tokens -= 1
        if self._tokens < 0:
            try:
                await asyncio.sleep(-self._tokens / self._rate)
            except asyncio.CancelledError:
                self._tokens += 1
                raise


@dataclass(frozen=True)
class Credentials:
    """Address and credentials of the API server, so that Kopf logs in as our own client does."""

    server: str
    ca_path: str | None
    insecure: bool
    certificate_path: str | None
    key_path: str | None
    authorization: str | None


class Cluster:
    """The API server."""

    def __init__(self, api: Any, limiter: Callable[[], Awaitable[None]], observer: Observer) -> None:
        self._api, self._limiter, self._observer = api, limiter, observer

    @classmethod
    async def connect(
        cls, settings: OperatorSettings, observer: Observer, guard: Callable[[], None] | None = None
    ) -> "Cluster":
        """Connect with the credentials of the pod, or else of the kubeconfig.

        `guard` is called right before the first byte of a write is sent, and stops it by raising.
        """
        from kubernetes.aio import config
        from kubernetes.aio.client.api_client import ApiClient
        from kubernetes.aio.client.configuration import Configuration

        configuration = Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)
        configuration.connection_pool_maxsize = settings.api_connections
        configuration.proxy = configuration.proxy or _proxy_of(configuration.host)
        configuration.client_session_kwargs = {"trust_env": False}  # else it reads netrc at every request
        if guard:
            configuration.trace_configs = [_guarded(guard)]
        limiter = RateLimiter(settings.api_qps, settings.api_burst)
        return cls(ApiClient(configuration), limiter, observer)

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def credentials(self) -> Credentials:
        """The current credentials: tokens are renewed through a file or the kubeconfig's plug-in."""
        configuration = self._api.configuration
        return Credentials(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file,
            key_path=configuration.key_file,
            authorization=await configuration.get_api_key_with_prefix("BearerToken"),
        )

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """The object, or None."""
        try:
            return await self.read(kind, namespace, name)
        except NotFoundError:
            return None

    async def read(self, kind: str, namespace: str, name: str) -> Body:
        """The object. Raises NotFoundError."""
        return await self._request("GET", _path(kind, namespace, name))

    async def version(self, kind: str, namespace: str | None, selector: str = "") -> int:
        """The resourceVersion of a kind, read consistently: no object that was seen before has a higher one.

        One object comes with it; `selector` makes it one of ours.
        """
        query = {"limit": "1"} | ({"labelSelector": selector} if selector else {})
        found = await self._request("GET", _path(kind, namespace), query)
        return int(found["metadata"]["resourceVersion"])

    async def list_all(self, kind: str, namespace: str | None, selector: str = "") -> list[Body]:
        """All objects of a kind. The items carry neither kind nor apiVersion."""
        return [item async for page in self.pages(kind, namespace, selector) for item in page]

    async def pages(
        self, kind: str, namespace: str | None, selector: str = "", fields: str = ""
    ) -> AsyncIterator[list[Body]]:
        """All objects of a kind, in pages, because users decide how large they are."""
        token = ""
        while True:
            query = {
                "limit": str(PAGE),
                "labelSelector": selector,
                "fieldSelector": fields,
                "continue": token,
            }
            page = await self._request("GET", _path(kind, namespace), {k: v for k, v in query.items() if v})
            token = page["metadata"].get("continue", "")
            yield page["items"]
            if not token:
                return

    async def create(self, kind: str, body: Body, *, dry_run: bool = False) -> Body:
        """Create an object, or let the API server check and default it only. Raises AlreadyExistsError."""
        path, query = _path(kind, body["metadata"]["namespace"]), {"dryRun": "All"} if dry_run else None
        try:
            return await self._request("POST", path, query, body)
        except ConflictError as error:
            raise AlreadyExistsError("POST", error.path, 409, error.message) from error

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete exactly this object in the foreground. No error if it is gone or has been replaced."""
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", _path(kind, namespace, name), body=options)
        except (NotFoundError, ConflictError):
            return

    async def write_status(self, namespace: str, name: str, version: str, status: Body) -> Body:
        """Replace the status if the object is still at `version`. Raises ConflictError, NotFoundError."""
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"namespace": namespace, "name": name, "resourceVersion": version},
            "spec": {},  # required by the schema; the status subresource leaves the stored one as it is
            "status": status,
        }
        return await self._request("PUT", _path("FineTuneJob", namespace, name) + "/status", body=body)

    async def patch_spec(
        self, kind: str, namespace: str, name: str, uid: str, version: str, spec: Body
    ) -> Body:
        """Merge fields into the spec of this object if it is still at `version`; None removes one.

        Raises ConflictError, NotFoundError.
        """
        body = {"metadata": {"uid": uid, "resourceVersion": version}, "spec": spec}
        return await self._request(
            "PATCH", _path(kind, namespace, name), body=body, content="application/merge-patch+json"
        )

    async def annotate(
        self, kind: str, namespace: str, name: str, version: str, annotations: dict[str, str]
    ) -> None:
        """Merge annotations if the object is still at `version`. Raises ConflictError, NotFoundError."""
        body = {"metadata": {"resourceVersion": version, "annotations": annotations}}
        await self._request(
            "PATCH", _path(kind, namespace, name), body=body, content="application/merge-patch+json"
        )

    async def replace(self, kind: str, body: Body) -> Body:
        """Replace an object at its resourceVersion. Raises ConflictError."""
        meta = body["metadata"]
        return await self._request("PUT", _path(kind, meta["namespace"], meta["name"]), body=body)

    async def serves_finetunejobs(self) -> bool:
        """Whether discovery lists them, as it does soon after the CRD is created."""
        try:
            groups = await self._request("GET", "/apis")
            version = await self._request("GET", "/apis/" + API_VERSION)
        except NotFoundError:
            return False
        return any(group["name"] == GROUP for group in groups["groups"]) and any(
            resource["name"] == PLURAL for resource in version["resources"]
        )

    async def review_token(self, token: str, audience: str) -> Body:
        """The status of a TokenReview: whose token it is."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = await self._request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=body)
        status: Body = answer.get("status", {})
        return status

    async def allowed(self, verb: str, group: str, resource: str, namespace: str) -> bool:
        """Whether the operator's own account has a right in a namespace, or everywhere if that is empty."""
        resource, _, subresource = resource.partition("/")
        attributes = {
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "namespace": namespace,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._request(
            "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body
        )
        return bool(answer["status"]["allowed"])

    async def _request(
        self,
        verb: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Body | None = None,
        content: str = "application/json",
    ) -> Body:
        await self._limiter()
        configuration = self._api.configuration
        headers = {
            "Accept": "application/json",
            "Content-Type": content,
            "User-Agent": "finetune-operator",
        }
        if token := await configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        url = configuration.host.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        response = await self._api.rest_client.request(
            verb, url, headers=headers, body=body, _request_timeout=_TIMEOUT
        )
        text = await response.read()
        self._observer(verb, response.status)
        if response.status >= 400:
            raise _error(verb, path, response.status, text)
        answer: Body = json.loads(text)
        return answer


def _proxy_of(server: str) -> str | None:
    """The proxy that the environment names for this address: HTTPS_PROXY, NO_PROXY."""
    url = urlsplit(server)
    return None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)


def _guarded(guard: Callable[[], None]) -> TraceConfig:
    """Asks the guard when a write has its connection, and again in the same breath in which its bytes are sent.

    aiohttp sends headers and body together, after it may have been interrupted once more.
    """

    async def about_to_send(_: ClientSession, __: Any, request: _Sent) -> None:
        if request.method != "GET":
            guard()

    traced = TraceConfig()
    traced.on_request_headers_sent.append(about_to_send)
    traced.on_request_chunk_sent.append(about_to_send)
    return traced


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    root, plural = PATHS[kind]
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/{root}{scope}/{plural}" + (f"/{name}" if name else "")


def _error(verb: str, path: str, status: int, text: bytes) -> ApiError:
    kinds: dict[int, type[ApiError]] = {404: NotFoundError, 409: ConflictError}
    try:
        answer = json.loads(text)
        message, causes = answer.get("message", ""), _causes(answer)
    except (ValueError, AttributeError):  # not JSON, or not an object: a proxy's words
        message, causes = text.decode(errors="replace").strip()[:300], ()
    return kinds.get(status, ApiError)(verb, path, status, message, causes)


def _causes(answer: Body) -> tuple[Cause, ...]:
    """The invalid fields that a Status names."""
    details = answer.get("details")
    found = details.get("causes") if isinstance(details, dict) else None
    return tuple(
        Cause(str(one.get("field", "")), str(one.get("message", "")))
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, dict)
    )
