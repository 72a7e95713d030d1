"""The policy on Secrets on a real API server: the author of a job must be allowed to get the Secrets that it names."""

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from builders import job
from chart.rendering import NAMESPACE, RELEASE, Rendered
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary
from integration.conftest import Kubectl

Json = dict[str, Any]

HUB = "hf://org/base"
JOBS = {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["*"]}


def secrets(*names: str) -> Json:
    """A rule that allows get on these Secrets; without names, on all."""
    rule: Json = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    return rule | ({"resourceNames": list(names)} if names else {})


USERS: dict[str, list[Json]] = {
    "only-jobs": [JOBS],
    "one-secret": [JOBS, secrets("hub")],
    "all-secrets": [JOBS, secrets()],
    "two-secrets": [JOBS, secrets("hub", "team")],
}
OPERATOR = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
NOT_EXEMPT = (
    f"system:serviceaccount:elsewhere:{RELEASE}",
    f"system:serviceaccount:{NAMESPACE}:default",
    RELEASE,
)
USERS |= {name: [JOBS] for name in (OPERATOR, *NOT_EXEMPT)}


def with_token(secret: str = "hub") -> Json:
    return job(model={"uri": HUB, "credentials": {"secretName": secret}}, suspend=True)


def with_env(*names: str, **more: Any) -> Json:
    """Each variable from a Secret of its own, after one that has a value."""
    variables: list[Json] = [{"name": "PLAIN", "value": "1"}]
    for number, name in enumerate(names):
        reference = {"secretKeyRef": {"name": name, "key": "api-key"}}
        variables.append({"name": f"V{number}", "valueFrom": reference})
    return job(env=variables, suspend=True, **more)


ALL = with_env(
    *(f"{'e' * 240}-{number}" for number in range(16)),
    model={"uri": HUB, "credentials": {"secretName": "c" * 253}},
    scheduling={"imagePullSecrets": [f"{'p' * 240}-{number}" for number in range(8)]},
)
"""As many Secrets as a spec can name, with the longest names: within the API server's budget for a policy."""


def with_pull_secrets(*names: str) -> Json:
    return job(scheduling={"imagePullSecrets": list(names)}, suspend=True)


@pytest.fixture(scope="module")
def policy(server: ApiServer, client: object) -> Iterator[None]:
    """The policy of the chart."""
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(Rendered.of().all(*kinds))})

    def run(verb: str) -> None:
        program = [str(binary("kubectl")), "--kubeconfig", str(server.kubeconfig), verb, "-f", "-"]
        done = subprocess.run(program, input=text, text=True, check=False, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr

    run("apply")
    yield
    run("delete")


@pytest.fixture
def users(policy: None, kubectl: Kubectl) -> None:
    """Users with these rights in the test's namespace, for whom the policy is in force."""
    for user, rules in USERS.items():
        name, group = user.replace(":", "."), "rbac.authorization.k8s.io"
        common = {"apiVersion": f"{group}/v1", "metadata": {"name": name}}
        role = common | {"kind": "Role", "rules": rules}
        binding = common | {
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        }
        items = {"apiVersion": "v1", "kind": "List", "items": [role, binding]}
        done = kubectl("apply", "-f", "-", text=json.dumps(items))
        assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 60
    while "may not get Secret" not in refusal(kubectl, "only-jobs", with_token(), "--dry-run=server"):
        assert time.monotonic() < deadline, "the policy is not in force after 60 s"
        time.sleep(0.5)


def refusal(kubectl: Kubectl, user: str, written: Json, *options: str) -> str:
    """What the API server says to this user; empty where the job is accepted."""
    done = kubectl("create", "-f", "-", f"--as={user}", *options, text=json.dumps(written))
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize(
    ("user", "written", "says"),
    [
        ("only-jobs", with_token(), "spec.model.credentials.secretName: only-jobs may not get Secret hub"),
        ("one-secret", with_token("deployer-token"), "one-secret may not get Secret deployer-token"),
        (
            "only-jobs",
            with_pull_secrets("team"),
            "spec.scheduling.imagePullSecrets[0]: only-jobs may not get",
        ),
        (
            "one-secret",
            with_pull_secrets("hub", "team"),
            "imagePullSecrets[1]: one-secret may not get Secret team",
        ),
        (
            "two-secrets",
            with_pull_secrets("hub", "team", "a", "b", "c", "d", "e", "f"),
            "imagePullSecrets[2]: two-secrets may not get Secret a",
        ),
        (
            "one-secret",
            with_pull_secrets(*["hub"] * 7, "last"),
            "imagePullSecrets[7]: one-secret may not get Secret last",
        ),
        ("only-jobs", with_env("wandb"), "spec.env, variable V0: only-jobs may not get Secret wandb"),
        ("one-secret", with_env("hub", "hub", "s3"), "variable V2: one-secret may not get Secret s3"),
        (
            "two-secrets",
            with_env(*["hub", "team"] * 7, "hub", "last"),
            "variable V15: two-secrets may not get",
        ),
        *[(user, with_env("wandb"), f"{user} may not get Secret wandb") for user in NOT_EXEMPT],
    ],
)
def test_a_job_with_a_secret_that_its_author_may_not_get_is_refused(
    users: None, kubectl: Kubectl, user: str, written: Json, says: str
) -> None:
    said = refusal(kubectl, user, written)
    assert says in said
    assert "name a Secret that you may read, or ask for the right to get this one" in said


@pytest.mark.parametrize(
    ("user", "written"),
    [
        ("only-jobs", job(suspend=True)),
        ("one-secret", with_token()),
        ("all-secrets", with_token("any")),
        ("two-secrets", with_pull_secrets("hub", "team")),
        ("all-secrets", with_pull_secrets(*"abcdefgh")),
        ("one-secret", with_env("hub")),
        ("two-secrets", with_env(*["hub", "team"] * 8)),
        ("all-secrets", ALL),
        (OPERATOR, ALL),
    ],
)
def test_what_its_author_may_get_is_accepted(users: None, kubectl: Kubectl, user: str, written: Json) -> None:
    assert refusal(kubectl, user, written) == ""


def test_a_change_is_checked_for_new_secrets_only(users: None, kubectl: Kubectl) -> None:
    assert refusal(kubectl, "two-secrets", with_pull_secrets("hub")) == ""

    def patched(spec: Json) -> "subprocess.CompletedProcess[str]":
        text = json.dumps({"spec": spec})
        return kubectl("patch", "ftj", "movie-sentiment", "--type=merge", "-p", text, "--as=only-jobs")

    allowed = patched({"ttlSecondsAfterFinished": 60})
    assert allowed.returncode == 0, allowed.stderr
    refused = patched({"scheduling": {"imagePullSecrets": ["hub", "team"]}})
    assert "imagePullSecrets[1]: only-jobs may not get Secret team" in refused.stderr


def test_a_change_of_a_job_with_as_many_secrets_as_it_can_name_is_within_the_budget(
    users: None, kubectl: Kubectl
) -> None:
    assert refusal(kubectl, "all-secrets", ALL) == ""
    text = json.dumps({"spec": {"suspend": False}})
    done = kubectl("patch", "ftj", "movie-sentiment", "--type=merge", "-p", text, "--as=only-jobs")
    assert done.returncode == 0, done.stderr
