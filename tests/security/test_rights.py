"""What the operator's account may do, as a real API server answers it: exactly the golden file, by scope and place.

`tests/chart/test_rbac.py` compares what the chart renders; this is what authorization makes of it, in the operator's
own namespace, in one that it serves, and in another.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import yaml

from chart.rendering import CHART, NAMESPACE, RELEASE
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.credentials import render_kubeconfig
from integration.operator_rig import ROOT, Rest, make_namespace
from integration.release import ACCOUNT, IMAGE, Tools, eventually

Json = dict[str, Any]

GOLDEN: Json = yaml.safe_load((ROOT / "tests" / "golden" / "rights.yaml").read_text())
PLACES = {"own": NAMESPACE, "served": "team-a", "other": "outside"}
SCOPES = {
    "cluster": ["--set", "rbac.scope=cluster"],
    "namespaces": ["--set", "rbac.scope=namespaces,rbac.namespaces={team-a}"],
}
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer.start(controllers=True) as started:
        for name in PLACES.values():
            make_namespace(Rest(started), name, inputs=False)
        yield started


@pytest.fixture(params=SCOPES)
def release(request: pytest.FixtureRequest, server: ApiServer) -> Iterator[tuple[str, Tools]]:
    tools = Tools(server)
    tools.helm("install", str(CHART), "--set", IMAGE, *SCOPES[request.param])
    yield request.param, tools
    tools.helm("uninstall")


def rights(tools: Tools, account: str, namespace: str) -> set[str]:
    """Lines such as `batch/jobs: create`; of named objects `secrets NAME: get`."""
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
    body |= {"spec": {"namespace": namespace}}
    token = tools.kubectl("create", "token", account, "--namespace", NAMESPACE).strip()
    kubeconfig = tools.api.folder / f"{account}.kubeconfig"
    kubeconfig.write_text(render_kubeconfig(tools.api.url, tools.api.ca.read_text(), account, token))
    asking = ApiServer(tools.api.folder, tools.api.url, kubeconfig, token, tools.api.ca, [])
    answer = Rest(asking)("POST", REVIEWS, body)
    return {
        f"{'/'.join(filter(None, (group, resource)))}{f' {name}' if name else ''}: {verb}"
        for rule in answer["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
        for verb in rule["verbs"]
    }


def test_the_account_may_do_exactly_this(release: tuple[str, Tools]) -> None:
    scope, tools = release

    def found() -> dict[str, list[str]]:
        return {
            place: sorted(rights(tools, RELEASE, namespace) - rights(tools, "default", namespace))
            for place, namespace in PLACES.items()
        }

    with suppress(AssertionError):  # the API server learns of roles some moments later
        eventually(lambda: found() == GOLDEN[scope])
    may = found()
    assert may == GOLDEN[scope], f"{ACCOUNT} may do this:\n{yaml.safe_dump({scope: may})}"
