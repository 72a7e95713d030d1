"""The operator's pod: restricted by the Pod Security Standards, one at a time, probed."""

import pytest

from chart.rendering import ALL, DEFAULTS, Json, Rendered


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


def test_there_is_one_operator_at_a_time(rendered: Rendered) -> None:
    spec = rendered.only("Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


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
