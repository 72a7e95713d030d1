"""Every way in which a cluster may not answer is one sentence with the remedy, and no traceback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_stub import JOBS, Reply, Stub, api_stub, kubeconfig_of
from builders import job, stored
from finetune_sdk import Client
from finetune_sdk.errors import ConfigError, FineTuneError, UnreachableError
from ports import free_port
from unit.cli.commands import finetune


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    with api_stub(tmp_path) as running:
        yield running


def refusal(stub: Stub, reply: Reply) -> str:
    """What `finetune status x` says to a reply, with its exit code."""
    stub.replies[f"{JOBS}/x"] = [reply]
    done = finetune("status", "x", "--kubeconfig", stub.kubeconfig)
    assert done.out == ""
    assert done.err.count("\n") == 1
    return f"{done.code}: {done.err}"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            (401, {"message": "Unauthorized"}),
            "4: the API server does not accept the credentials of context test",
        ),
        (
            (403, {"message": "alice cannot get"}),
            "4: your credentials of context test do not allow this: alice",
        ),
        (
            (404, b"404 page not found"),
            "4: the cluster of context test has no FineTuneJobs: install the operator",
        ),
        (
            (404, {"message": "not found", "details": {"name": "x"}}),
            "2: FineTuneJob x not found in namespace team",
        ),
        ((422, {"message": "spec.model: Invalid"}), "4: spec.model: Invalid"),
        ((418, b"<html>teapot</html>"), "4: <html>teapot</html>"),
        ((418, b""), f"4: GET {JOBS}/x: HTTP 418"),
        ((418, b"[1]"), "4: [1]"),
    ],
)
def test_a_refusal_is_one_sentence(stub: Stub, reply: Reply, said: str) -> None:
    assert refusal(stub, reply).startswith(said)


def test_a_similar_name_and_the_right_namespace_are_suggested(stub: Stub) -> None:
    stub.put(stored(job("movie-sentiment"), namespace="team"), stored(job("other"), namespace="research"))
    client = Client(kubeconfig=str(stub.kubeconfig))
    for name, hint in {
        "movie-sentimnt": "did you mean movie-sentiment?",
        "other": "--namespace research",
    }.items():
        stub.replies.pop(f"{JOBS}/{name}", None)
        with pytest.raises(FineTuneError, match=hint):
            client.get(name)


def test_a_server_that_is_not_there_is_named_with_its_context(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(json.dumps(kubeconfig_of(f"http://127.0.0.1:{free_port()}", "laptop")))
    with pytest.raises(
        UnreachableError, match=r"127\.0\.0\.1.*context laptop does not answer \(.+\); is the"
    ):
        Client(kubeconfig=str(file)).get("x")


@pytest.mark.parametrize(
    ("content", "context", "said"),
    [
        (None, None, "no kubeconfig at .*config; set KUBECONFIG"),
        (kubeconfig_of("http://x", "staging"), "stagin", "no context stagin in .*; did you mean staging?"),
        (kubeconfig_of("http://x", "staging"), "zzz", "no context zzz in .*; it has staging"),
        ("{", None, "cannot be used"),
        ({}, None, "cannot be used|no current context"),
    ],
    ids=["no file", "misspelt", "unknown", "not YAML", "empty"],
)
def test_a_kubeconfig_that_does_not_do_is_named(
    tmp_path: Path, content: Any, context: str | None, said: str
) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match=said):
        Client(context=context, kubeconfig=str(file))


@pytest.mark.parametrize(("namespace", "found"), [("research", "research"), (None, "default")])
def test_a_job_is_looked_for_where_kubectl_would(tmp_path: Path, namespace: str | None, found: str) -> None:
    file = tmp_path / "config"
    file.write_text(json.dumps(kubeconfig_of("http://x", namespace=namespace)))
    assert Client(kubeconfig=str(file)).namespace == found
    assert Client("mine", kubeconfig=str(file)).namespace == "mine"


def test_long_lists_are_read_page_by_page(stub: Stub) -> None:
    pages = [
        (200, {"metadata": {"continue": token}, "items": [stored(job(name), namespace="team")]})
        for name, token in (("b", "next"), ("a", ""))
    ]
    stub.replies[JOBS] = list(pages)
    assert [one.name for one in Client(kubeconfig=str(stub.kubeconfig)).jobs()] == ["a", "b"]
    assert "continue=next" in stub.asked[-1][1]


def test_a_binary_file_is_no_kubeconfig(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_bytes(b"\xff\x00\x94")
    with pytest.raises(ConfigError, match=r"config cannot be used: .*can't decode byte"):
        Client(kubeconfig=str(file))
