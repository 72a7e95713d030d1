"""An API server of a few lines, for what a real one does not do on request: it answers a list of canned replies."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Reply = tuple[int, Any]
JOBS = "/apis/finetune.dev/v1alpha1/namespaces/team/finetunejobs"


@dataclass
class Stub:
    """Replies by path without query: the last one is given again and again."""

    kubeconfig: Path
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)

    def put(self, *bodies: Json) -> None:
        """FineTuneJobs of the namespace."""
        for body in bodies:
            self.replies[f"{JOBS}/{body['metadata']['name']}"] = [(200, body)]
        self.replies[JOBS] = [(200, {"metadata": {}, "items": list(bodies)})]
        self.replies["/apis/finetune.dev/v1alpha1/finetunejobs"] = self.replies[JOBS]

    def answer(self, verb: str, path: str, body: Any) -> Reply:
        """The next reply; as an API server for an object that is not there."""
        self.asked.append((verb, path, body))
        replies = self.replies.get(path.partition("?")[0])
        if replies is None:
            name = path.partition("?")[0].rpartition("/")[2]
            return 404, {"kind": "Status", "message": f"{name} not found", "details": {"name": name}}
        return replies.pop(0) if len(replies) > 1 else replies[0]


def kubeconfig_of(server: str, context: str = "test", namespace: str | None = "team") -> Json:
    """A kubeconfig with one context."""
    of = {"cluster": "c", "user": "u"} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": context, "context": of}],
        "current-context": context,
    }


@contextmanager
def api_stub(folder: Path) -> Iterator[Stub]:
    """A running one, with a kubeconfig that names it."""
    stub = Stub(folder / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length)
            status, body = stub.answer(self.command, self.path, json.loads(text) if text else None)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _reply  # noqa: N815 - names of the base class

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name of the base class
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.kubeconfig.write_text(json.dumps(kubeconfig_of(f"http://127.0.0.1:{server.server_port}")))
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
