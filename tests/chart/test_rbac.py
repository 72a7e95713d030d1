"""What the operator may do: exactly this. A new right is a decision, made here and explained in docs/install.md."""

import re
from collections.abc import Iterator

import pytest

from chart.rendering import ALL, CHART, NAMESPACE, NAMESPACED, RELEASE, Json, Rendered

Right = tuple[str, str, str]

ON_JOBS: set[Right] = {
    *(
        ("finetune.dev", "finetunejobs", verb)
        for verb in ("create", "get", "list", "patch", "watch")  # trials
    ),
    *(("finetune.dev", "finetunejobs/status", verb) for verb in ("get", "update")),
    *(("batch", "jobs", verb) for verb in ("create", "delete", "get", "list", "watch")),
    *(("", "pods", verb) for verb in ("list", "watch")),
    *(("", "configmaps", verb) for verb in ("create", "delete", "get")),
    *(("", "services", verb) for verb in ("create", "delete", "get")),
    *(("", "persistentvolumeclaims", verb) for verb in ("create", "get")),
    *(("", "events", verb) for verb in ("create", "list")),
    ("resource.k8s.io", "resourceclaimtemplates", "get"),
}
ON_NODES: set[Right] = {("", "nodes", "list")}
ON_WORKLOADS: set[Right] = {("kueue.x-k8s.io", "workloads", "get")}
ON_PRIORITIES: set[Right] = {("kueue.x-k8s.io", "workloads", "patch")}
ON_TOKENS: set[Right] = {("authentication.k8s.io", "tokenreviews", "create")}
ON_ITS_LEASE: set[Right] = {
    *(("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "update")),
    ("", "pods", "list"),
}
ON_ITS_SECRET: set[Right] = {("", "secrets", "get"), ("", "secrets", "update")}
EDITOR: set[Right] = {
    *(
        ("finetune.dev", "finetunejobs", verb)
        for verb in ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
    ),
    ("finetune.dev", "finetunejobs/status", "get"),
}
VIEWER: set[Right] = {
    *(("finetune.dev", "finetunejobs", verb) for verb in ("get", "list", "watch")),
    ("finetune.dev", "finetunejobs/status", "get"),
}


def rights(role: Json) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def granted(rendered: Rendered) -> Iterator[tuple[str, Json]]:
    """Where ("" is everywhere) the operator's account is bound to which role."""
    roles = {
        (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one
        for one in rendered.all("ClusterRole", "Role")
    }
    for binding in rendered.all("ClusterRoleBinding", "RoleBinding"):
        (subject,) = binding["subjects"]
        account = rendered.only("ServiceAccount")["metadata"]
        assert subject == {"kind": "ServiceAccount", "name": account["name"], "namespace": NAMESPACE}
        namespace, reference = binding["metadata"].get("namespace", ""), binding["roleRef"]
        assert reference["apiGroup"] == "rbac.authorization.k8s.io"
        place = namespace if reference["kind"] == "Role" else ""
        yield namespace, roles[reference["kind"], place, reference["name"]]


def granted_rights(values: Json) -> set[tuple[str, Right]]:
    return {(place, right) for place, role in granted(Rendered.of(values)) for right in rights(role)}


def at(place: str, *sets: set[Right]) -> set[tuple[str, Right]]:
    return {(place, right) for one in sets for right in one}


def test_in_the_whole_cluster() -> None:
    own = at(NAMESPACE, ON_ITS_LEASE, ON_ITS_SECRET)
    assert granted_rights({}) == at("", ON_JOBS, ON_NODES, ON_WORKLOADS, ON_TOKENS) | own


def test_in_some_namespaces() -> None:
    teams = at("team-a", ON_JOBS, ON_WORKLOADS) | at("team-b", ON_JOBS, ON_WORKLOADS)
    own = at(NAMESPACE, ON_ITS_LEASE, ON_ITS_SECRET)
    assert granted_rights(NAMESPACED) == teams | at("", ON_TOKENS) | own


def test_in_its_own_namespace() -> None:
    values = {"rbac": {"scope": "namespaces"}}
    own = at(NAMESPACE, ON_JOBS, ON_WORKLOADS, ON_ITS_LEASE, ON_ITS_SECRET)
    assert granted_rights(values) == at("", ON_TOKENS) | own


def test_without_progress_nothing_on_tokens_and_secrets() -> None:
    wanted = at("", ON_JOBS, ON_NODES, ON_WORKLOADS) | at(NAMESPACE, ON_ITS_LEASE)
    assert granted_rights({"progress": {"enabled": False}}) == wanted


def test_workloads_of_kueue_are_read_unless_it_is_off_and_changed_for_their_priority_only() -> None:
    assert not granted_rights({"kueue": {"enabled": False}}) & at("", ON_WORKLOADS, ON_PRIORITIES)
    assert granted_rights({"kueue": {"priorityBoost": 50}}) >= at("", ON_WORKLOADS, ON_PRIORITIES)


def test_the_only_secret_is_its_own() -> None:
    rendered = Rendered.of()
    rules = [
        rule for _, role in granted(rendered) for rule in role["rules"] if "secrets" in rule["resources"]
    ]
    assert [rule["resourceNames"] for rule in rules] == [[f"{RELEASE}-tls"]]
    assert rendered.only("Secret")["metadata"]["name"] == f"{RELEASE}-tls"


def test_of_the_leases_it_may_read_and_change_its_own_only() -> None:
    rendered = Rendered.of()
    rules = [rule for _, role in granted(rendered) for rule in role["rules"] if "leases" in rule["resources"]]
    names = {verb: rule.get("resourceNames") for rule in rules for verb in rule["verbs"]}
    assert names == {"create": None, "get": [RELEASE], "update": [RELEASE]}
    assert rendered.environment["FINETUNE_OPERATOR_LEASE"] == f"{NAMESPACE}/{RELEASE}"


def test_people_get_theirs_by_the_roles_of_the_cluster() -> None:
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    found = {}
    for role in Rendered.of().all("ClusterRole"):
        labels = role["metadata"]["labels"]
        if to := tuple(sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))):
            found[to] = rights(role)
    assert found == {("admin", "edit"): EDITOR, ("view",): VIEWER}


@pytest.mark.parametrize("values", [{}, NAMESPACED, ALL])
def test_there_is_no_wildcard(values: Json) -> None:
    for role in Rendered.of(values).all("ClusterRole", "Role"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "nonResourceURLs" not in rule


def test_the_page_on_installing_explains_every_right() -> None:
    page = (CHART.parents[1] / "docs" / "install.md").read_text()
    rows = re.findall(r"^\| `([\w/]+)` \| ([\w, ]+) \|", page, re.MULTILINE)
    explained = {(resource, verb) for resource, verbs in rows for verb in verbs.split(", ")}
    assert explained == {
        (resource, verb)
        for _, resource, verb in ON_JOBS
        | ON_NODES
        | ON_WORKLOADS
        | ON_PRIORITIES
        | ON_TOKENS
        | ON_ITS_LEASE
        | ON_ITS_SECRET
    }
