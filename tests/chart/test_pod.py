"""The operator's pods: restricted by the Pod Security Standards, spread, replaced one by one, probed."""

import pytest

from chart.rendering import ALL, DEFAULTS, NAMESPACE, Json, Rendered


@pytest.fixture(scope="module", params=[{}, ALL], ids=["defaults", "all values"])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return Rendered.of(request.param)


def test_the_pod_is_restricted(rendered: Rendered) -> None:
    security = rendered.pod["securityContext"]
    assert security.items() >= {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}.items()
    assert security.get("runAsUser", 65532) == security.get("runAsGroup", 65532) == 65532
    assert rendered.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(
        rendered.pod
    )
    assert not any("hostPort" in port for port in rendered.container["ports"])


def test_nothing_but_tmp_can_be_written(rendered: Rendered) -> None:
    assert rendered.pod["volumes"] == [{"name": "tmp", "emptyDir": {}}]
    assert rendered.container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


def test_the_old_operator_ends_when_the_new_one_stands_by(rendered: Rendered) -> None:
    """Said in full: a field that the API server fills in would stay after a return to the strategy Recreate."""
    strategy = rendered.only("Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_there_is_one_operator_unless_more_are_asked_for() -> None:
    assert Rendered.of().only("Deployment")["spec"]["replicas"] == 1
    assert Rendered.of({"replicas": 2}).only("Deployment")["spec"]["replicas"] == 2


def test_several_operators_are_on_different_nodes_and_zones_where_there_are_any() -> None:
    assert not {"topologySpreadConstraints", "affinity"} & set(Rendered.of().pod)
    rendered = Rendered.of({"replicas": 2})
    selector = {"matchLabels": rendered.only("Deployment")["spec"]["selector"]["matchLabels"]}
    usual = {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["pod-template-hash"]}
    assert rendered.pod["topologySpreadConstraints"] == [
        usual | {"topologyKey": key, "labelSelector": selector}
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]


def test_the_administrators_constraints_replace_ours_and_select_the_operators_unless_they_say_what() -> None:
    one = {"topologyKey": "rack", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}
    other = one | {"labelSelector": {"matchLabels": {"team": "a"}}}
    rendered = Rendered.of({"replicas": 2, "topologySpreadConstraints": [one, other]})
    selector = {"matchLabels": rendered.only("Deployment")["spec"]["selector"]["matchLabels"]}
    assert rendered.pod["topologySpreadConstraints"] == [one | {"labelSelector": selector}, other]


def test_a_drain_ends_one_of_several_operators_at_a_time() -> None:
    assert not list(Rendered.of().all("PodDisruptionBudget"))
    rendered = Rendered.of({"replicas": 2})
    budget = rendered.only("PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert budget["selector"] == rendered.only("Deployment")["spec"]["selector"]


@pytest.mark.parametrize("values", [{}, {"fullnameOverride": "tuner"}])
def test_the_operators_elect_a_leader_and_wait_for_those_that_do_not(values: Json) -> None:
    rendered = Rendered.of(values)
    deployment = rendered.only("Deployment")
    environment = {one["name"].removeprefix("FINETUNE_OPERATOR_"): one for one in rendered.container["env"]}
    assert environment["LEASE"]["value"] == f"{NAMESPACE}/{deployment['metadata']['name']}"
    paths = {
        name: environment[name]["valueFrom"]["fieldRef"]["fieldPath"] for name in ("IDENTITY", "ADDRESS")
    }
    assert paths == {"IDENTITY": "metadata.name", "ADDRESS": "status.podIP"}
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    *wanted, unwanted = environment["PREDECESSORS"]["value"].split(",")
    assert dict(one.split("=") for one in wanted) == deployment["spec"]["selector"]["matchLabels"]
    assert unwanted.removeprefix("!") in labels
    assert unwanted.removeprefix("!") not in deployment["spec"]["selector"]["matchLabels"]


def test_services_of_the_namespace_set_no_variables(rendered: Rendered) -> None:
    """That of the operator would set FINETUNE_OPERATOR_PORT, which the operator refuses as unknown."""
    assert rendered.pod["enableServiceLinks"] is False


def test_only_the_operators_pod_gets_a_token(rendered: Rendered) -> None:
    assert rendered.only("ServiceAccount")["automountServiceAccountToken"] is False
    assert rendered.pod["automountServiceAccountToken"] is True


@pytest.mark.parametrize(
    ("probe", "path"),
    [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")],
)
def test_the_pod_is_probed(rendered: Rendered, probe: str, path: str) -> None:
    assert rendered.container[probe]["httpGet"] == {"path": path, "port": "http"}


def test_the_administrators_wishes_reach_the_pod() -> None:
    rendered = Rendered.of(ALL)
    template = rendered.only("Deployment")["spec"]["template"]
    assert template["metadata"]["annotations"] == ALL["podAnnotations"]
    assert rendered.container["imagePullPolicy"] == "Always"
    wishes: Json = {
        "imagePullSecrets": [{"name": "operator-pull"}],
        "priorityClassName": ALL["priorityClassName"],
        "nodeSelector": ALL["nodeSelector"],
        "tolerations": ALL["tolerations"],
        "affinity": ALL["affinity"],
    }
    assert wishes.items() <= rendered.pod.items()
    assert rendered.container["resources"] == {
        "requests": {"cpu": 1, "memory": DEFAULTS["resources"]["requests"]["memory"]},
        "limits": DEFAULTS["resources"]["limits"],
    }


def test_no_wish_leaves_no_trace() -> None:
    pod = Rendered.of().pod
    assert not {"imagePullSecrets", "priorityClassName", "nodeSelector", "tolerations"} & set(pod)


def test_where_the_platform_chooses_ids_the_operators_pod_names_none() -> None:
    security = Rendered.of({"platform": {"assignsIDs": True}}).pod["securityContext"]
    assert security == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert Rendered.of().pod["securityContext"]["runAsUser"] == 65532
