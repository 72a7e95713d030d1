"""The API server in plain dicts, with the user's credentials. The client library is imported when it is first used.

Only its configuration and transport are used, as by the operator; its typed models are slow to import and to build.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from finetune_api import API_VERSION, GROUP, PLURAL
from finetune_core import json_reading
from finetune_sdk.errors import (
    ClusterError,
    ConfigError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotInstalledError,
    RefusedError,
    UnreachableError,
)

Body = dict[str, Any]

TIMEOUT_SECONDS = 30.0
_CONNECT_SECONDS = 5.0
_PAGE = 500
_MERGE, _APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
MANAGER = "finetune"
"""Field manager of what is applied."""
PATHS = {
    "FineTuneJob": (f"apis/{API_VERSION}", PLURAL),
    "Job": ("apis/batch/v1", "jobs"),
    "Pod": ("api/v1", "pods"),
    "Event": ("api/v1", "events"),
}


class Cluster:
    """A connection to one API server, with the namespace of its context."""

    def __init__(self, api: Any, context: str, namespace: str) -> None:
        self._api, self.context, self.namespace = api, context, namespace

    @classmethod
    def connect(cls, context: str | None = None, kubeconfig: str | None = None) -> "Cluster":
        """Connect as kubectl does: by the kubeconfig, or else, in a pod, by its service account. Raises ConfigError."""
        import yaml
        from kubernetes import config
        from kubernetes.client import ApiClient, Configuration

        files = kubeconfig or os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
        if not any(Path(file).exists() for file in files.split(os.pathsep) if file):
            if context or kubeconfig or "KUBERNETES_SERVICE_HOST" not in os.environ:
                raise ConfigError(f"no kubeconfig at {files}; set KUBECONFIG or write --kubeconfig FILE")
            configuration = Configuration()
            config.load_incluster_config(client_configuration=configuration)
            return cls(ApiClient(configuration), "in-cluster", _namespace_of_the_pod())
        try:
            contexts, active = config.list_kube_config_contexts(config_file=files)
            chosen = _context(contexts, active, context, files)
            api = config.new_client_from_config(config_file=files, context=chosen["name"])
        except (config.ConfigException, yaml.YAMLError, OSError, LookupError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"the kubeconfig {files} cannot be used: {reason}") from error
        return cls(api, chosen["name"], str(chosen["context"].get("namespace") or "default"))

    @property
    def server(self) -> str:
        """Address of the API server."""
        return str(self._api.configuration.host)

    def get(self, kind: str, namespace: str, name: str) -> Body:
        """The object. Raises NotFoundError."""
        return self._json("GET", _path(kind, namespace, name))

    def list_all(self, kind: str, namespace: str | None, selector: str = "") -> list[Body]:
        """All objects of a kind; of all namespaces with None."""
        found: list[Body] = []
        token = ""
        while True:
            query = {"limit": str(_PAGE), "labelSelector": selector, "continue": token}
            page = self._json(
                "GET", _path(kind, namespace) + "?" + urlencode({k: v for k, v in query.items() if v})
            )
            found += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return found

    def create(self, kind: str, namespace: str, body: Body, *, dry_run: bool = False) -> Body:
        """Create an object. Raises ConflictError if it exists."""
        return self._json("POST", _path(kind, namespace) + ("?dryRun=All" if dry_run else ""), body)

    def apply(self, kind: str, namespace: str, body: Body) -> Body:
        """Create the object or change the fields that differ. Raises RefusedError, ConflictError."""
        path = _path(kind, namespace, body["metadata"]["name"])
        return self._json("PATCH", f"{path}?fieldManager={MANAGER}", body, _APPLY)

    def patch_spec(self, kind: str, namespace: str, name: str, spec: Body) -> Body:
        """Merge fields into the spec."""
        return self._json("PATCH", _path(kind, namespace, name), {"spec": spec}, _MERGE)

    def delete(self, kind: str, namespace: str, name: str, grace_seconds: int | None = None) -> None:
        """Delete an object; no error if it is gone."""
        options = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        try:
            self._json("DELETE", _path(kind, namespace, name), options)
        except NotFoundError:
            return

    def log(
        self, namespace: str, pod: str, *, follow: bool = False, tail: int | None = None
    ) -> Iterator[str]:
        """The lines of a pod's log, as they come. Raises NotFoundError when the pod is gone."""
        for chunk in self.log_bytes(namespace, pod, follow=follow, tail=tail):
            yield chunk.decode(errors="replace").rstrip("\n")

    def log_bytes(
        self, namespace: str, pod: str, *, follow: bool = False, tail: int | None = None
    ) -> Iterator[bytes]:
        """The same as bytes, each with its line end."""
        query = {"follow": "true" if follow else "", "tailLines": "" if tail is None else str(tail)}
        path = _path("Pod", namespace, pod) + "/log?" + urlencode({k: v for k, v in query.items() if v})
        answer = self._request("GET", path, None, "", patient=follow)
        try:
            yield from answer
        finally:
            answer.close()  # of a log that goes on, the rest would be read first

    @contextmanager
    def execute(self, namespace: str, pod: str, command: list[str]) -> Iterator[Any]:
        """A command in a pod: the client library's socket, which keeps nothing of its output. Raises ClusterError."""
        from kubernetes.stream.ws_client import WSClient, get_websocket_url
        from websocket import WebSocketBadStatusException, WebSocketException

        query = [("command", command), ("stdout", "true"), ("stderr", "true")]
        url = get_websocket_url(self.server.rstrip("/") + _path("Pod", namespace, pod) + "/exec", query)
        configuration = self._api.configuration
        token = configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        headers = {"authorization": token} if token else {}
        try:
            socket = WSClient(configuration, url, headers, capture_all=False, binary=True)
        except WebSocketBadStatusException as error:
            raise self._error(
                error.status_code, error.resp_body or b"", "GET", _path("Pod", namespace, pod)
            ) from error
        except (WebSocketException, OSError) as error:
            raise UnreachableError(f"exec in the pod {pod} of context {self.context}: {error}") from error
        try:
            yield socket
        finally:
            socket.close()
            socket.sock.shutdown()  # close leaves it open if the server closed first

    def _json(
        self, verb: str, path: str, body: Body | None = None, content: str = "application/json"
    ) -> Body:
        found: Body = json_reading.loads(self._request(verb, path, body, content).data)
        return found

    def _request(
        self, verb: str, path: str, body: Body | None, content: str, *, patient: bool = False
    ) -> Any:
        import urllib3
        from urllib3.exceptions import HTTPError

        configuration = self._api.configuration
        headers = {"Accept": "application/json, */*", "User-Agent": "finetune"}
        if content:
            headers["Content-Type"] = content
        if token := configuration.get_api_key_with_prefix("BearerToken", alias="authorization"):
            headers["Authorization"] = token
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=None if patient else TIMEOUT_SECONDS)
        try:
            answer = self._api.rest_client.pool_manager.request(
                verb,
                configuration.host.rstrip("/") + path,
                headers=headers,
                body=None if body is None else json.dumps(body),
                timeout=timeout,
                retries=False,
                preload_content=False,
            )
            if answer.status >= 400:
                raise self._error(answer.status, answer.read(), verb, path)
            if not patient and content:
                answer.read(cache_content=True)
        except HTTPError as error:
            raise UnreachableError(
                f"the API server {configuration.host} of context {self.context} does not answer"
                f" ({_root(error)}); is the cluster running, and is this the right --context?"
            ) from error
        return answer

    def _error(self, status: int, text: bytes, verb: str, path: str) -> ClusterError:
        try:
            answer = json_reading.loads(text)
            message, name = str(answer.get("message", "")), (answer.get("details") or {}).get("name")
        except (ValueError, AttributeError):
            message, name = text.decode(errors="replace").strip()[:300], None
        if status == 401:
            return ForbiddenError(
                f"the API server does not accept the credentials of context {self.context}; log in again"
            )
        if status == 403:
            return ForbiddenError(f"your credentials of context {self.context} do not allow this: {message}")
        if status == 404 and path.startswith(f"/apis/{GROUP}/") and not name:
            return NotInstalledError(
                f"the cluster of context {self.context} has no FineTuneJobs: install the operator (docs/install.md),"
                " or choose another --context"
            )
        if status == 429 or status >= 500:
            return UnreachableError(
                f"the API server {self.server} of context {self.context} cannot answer now:"
                f" HTTP {status} {message}"
            )
        if status == 409:
            return ConflictError(message)
        kind = NotFoundError if status == 404 else RefusedError
        return kind(message or f"{verb} {path}: HTTP {status}")


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    root, plural = PATHS[kind]
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/{root}{scope}/{plural}" + (f"/{name}" if name else "")


def _context(contexts: list[Body], active: Body | None, wanted: str | None, files: str) -> Body:
    """The context of this name, else the current one. Raises ConfigError."""
    names = [str(one["name"]) for one in contexts]
    if wanted is None and active:
        return active
    if wanted in names:
        return contexts[names.index(wanted)]
    if wanted is None:
        raise ConfigError(f"the kubeconfig {files} has no current context; write --context NAME")
    near = get_close_matches(wanted, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(names) or 'none'}"
    raise ConfigError(f"no context {wanted} in {files}{hint}")


def _namespace_of_the_pod() -> str:
    file = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return file.read_text(encoding="utf-8").strip() if file.exists() else "default"


def _root(error: BaseException) -> str:
    """The innermost reason, without the classes around it."""
    reason = getattr(error, "reason", None) or error.__cause__ or error
    text = str(reason if isinstance(reason, BaseException) else error)
    return text.rpartition(": ")[2][:200] or type(error).__name__
