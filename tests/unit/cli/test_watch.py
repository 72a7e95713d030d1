"""`finetune watch` shows what a job says, whatever that is, and outlives a server that is away for a moment."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import kube_config
from rich.console import Console
from urllib3.exceptions import MaxRetryError

from finetune_cli import watch

Answer = dict[str, Any] | Exception


def status(message: str = "", **fields: Any) -> dict[str, Any]:
    return {"status": {"phase": "Failed", "display": {"message": message}} | fields}


def finished(message: str = "", kind: str = "Complete") -> dict[str, Any]:
    conditions = [{"type": name, "status": "True"} for name in ("Finished", kind)]
    return status(message, conditions=conditions)


def followed(monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> tuple[int, str]:
    """Exit code and output of a watch, to which the API server gives these answers."""
    coming: Iterator[Answer] = iter(answers)

    def answer(*_: Any, _request_timeout: float, **__: Any) -> dict[str, Any]:
        found = next(coming)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(config, "load_config", lambda: None)
    monkeypatch.setattr(client.CustomObjectsApi, "get_namespaced_custom_object", staticmethod(answer))
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0.0)
    out = io.StringIO()
    code = watch.follow("job", "team", Console(file=out, soft_wrap=True, highlight=False))
    return code, out.getvalue()


@pytest.mark.parametrize(
    "message", ["label 'x' is not one of [neg, pos]", "[rank0]: killed", "see [/var/log/x] and [/]"]
)
def test_a_message_with_brackets_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    code, shown = followed(monkeypatch, finished(message, "Failed"))
    assert code == 1
    assert message in shown


def test_metrics_with_brackets_in_their_names_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = {"step": 1, "epoch": 1.0, "metrics": {"f1[/neg]": 0.5}}
    _, shown = followed(monkeypatch, status(epochs=[epoch]), finished())
    assert "f1[/neg] 0.500" in shown


@pytest.mark.parametrize(
    "fault",
    [ApiException(status=503), ApiException(status=429), MaxRetryError(None, "/", None)],  # type: ignore[arg-type]
)
def test_a_server_that_is_away_for_a_moment_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    assert followed(monkeypatch, status(), fault, fault, finished())[0] == 0


def test_a_server_that_stays_away_or_refuses_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ApiException):
        followed(monkeypatch, ApiException(status=403))
    monkeypatch.setattr(watch, "_PATIENCE_SECONDS", -1.0)
    with pytest.raises(ApiException):
        followed(monkeypatch, ApiException(status=503))


@pytest.mark.parametrize(
    ("context", "namespace"), [("team", "research"), ("bare", "default"), ("none", "default")]
)
def test_a_job_is_looked_for_where_kubectl_would(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, context: str, namespace: str
) -> None:
    contexts = [
        {"name": "team", "context": {"cluster": "c", "user": "u", "namespace": "research"}},
        {"name": "bare", "context": {"cluster": "c", "user": "u"}},
    ]
    path = tmp_path / "config"
    if context != "none":
        others = {"clusters": [{"name": "c", "cluster": {}}], "users": [{"name": "u", "user": {}}]}
        path.write_text(json.dumps({"contexts": contexts, "current-context": context} | others))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    assert watch.current_namespace() == namespace


def test_a_job_that_is_not_there_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    code, shown = followed(monkeypatch, ApiException(status=404))
    assert code == 2
    assert "FineTuneJob job not found in namespace team" in shown
