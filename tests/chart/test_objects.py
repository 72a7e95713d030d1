"""What the chart installs for which values, and that its copies of generated things are current."""

import importlib.util
import json
import tomllib
from types import ModuleType

import pytest
import yaml

from builders import job, stored
from chart.rendering import ALL, CHART, DEFAULTS, NAMESPACE, NAMESPACED, RELEASE, Json, Rendered, helm
from finetune_api.crd import crd
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_core.plan.naming import labels_of
from finetune_core.plan.reading import parse
from unit.operator.worlds import planned

ROOT = CHART.parents[1]
DIGEST = f"sha256:{'a' * 64}"
CLUSTER_SCOPED = {
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """hack/generate.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "hack" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("values", [{}, NAMESPACED, ALL])
def test_helm_has_nothing_to_criticise(values: Json) -> None:
    done = helm("lint", "--strict", str(CHART), values=values)
    assert done.returncode == 0, done.stdout


def test_by_default_everything_is_installed_that_the_operator_needs() -> None:
    kinds = sorted(one["kind"] for one in Rendered.of().objects)
    assert kinds == [
        "ClusterRole",
        "ClusterRole",
        "ClusterRole",
        "ClusterRole",
        "ClusterRoleBinding",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "Pod",
        "Role",
        "Role",
        "RoleBinding",
        "RoleBinding",
        "Secret",
        "Service",
        "ServiceAccount",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ]


def test_who_has_no_rights_on_the_cluster_can_install_it_into_a_namespace() -> None:
    values = {
        "crds": {"enabled": False},
        "rbac": {"scope": "namespaces", "aggregate": False},
        "progress": {"enabled": False},
        "policy": {"secrets": False},
    }
    rendered = Rendered.of(values)
    assert not list(rendered.all(*CLUSTER_SCOPED))
    assert {one["metadata"]["namespace"] for one in rendered.objects} == {NAMESPACE}


@pytest.mark.parametrize("values", [{}, NAMESPACED, ALL])
def test_every_object_says_where_it_belongs_and_who_made_it(values: Json) -> None:
    for one in Rendered.of(values).objects:
        meta = one["metadata"]
        assert ("namespace" in meta) is (one["kind"] not in CLUSTER_SCOPED)
        assert meta["labels"]["app.kubernetes.io/instance"] == RELEASE
        # the operator takes what is managed by itself for a child of a job
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "Helm"


def test_two_releases_of_one_name_in_two_namespaces_do_not_collide() -> None:
    values = {"crds": {"enabled": False}}
    names = [
        {
            (one["kind"], one["metadata"]["name"])
            for one in Rendered.of(values, namespace=space).all(*CLUSTER_SCOPED)
        }
        for space in ("team-a", "team-b")
    ]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("finetune-operator", {}, "finetune-operator"),
        ("my", {}, "my-finetune-operator"),
        ("my.release", {}, "my-release-finetune-operator"),
        ("a" * 53, {}, "a" * 45),
        ("my", {"fullnameOverride": "tuner"}, "tuner"),
    ],
)
def test_objects_are_named_after_the_release(release: str, values: Json, name: str) -> None:
    rendered = Rendered.of(values, release=release)
    assert rendered.only("Deployment")["metadata"]["name"] == name
    assert rendered.only("Secret")["metadata"]["name"] == f"{name}-tls"
    assert rendered.pod["serviceAccountName"] == rendered.only("ServiceAccount")["metadata"]["name"] == name


def test_the_secret_of_the_certificate_has_no_data_that_an_upgrade_could_write() -> None:
    secret = Rendered.of().only("Secret")
    assert not {"data", "stringData", "immutable"} & set(secret)
    assert secret["type"] == "Opaque"


def test_the_service_leads_to_the_ports_of_the_pod() -> None:
    rendered = Rendered.of()
    service, deployment = rendered.only("Service")["spec"], rendered.only("Deployment")["spec"]
    assert service["selector"] == deployment["selector"]["matchLabels"]
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in rendered.container["ports"]}
    assert {port["port"]: ports[port["targetPort"]] for port in service["ports"]} == {8080: 8080, 443: 8443}


def test_without_progress_there_is_neither_port_nor_secret() -> None:
    rendered = Rendered.of({"progress": {"enabled": False}})
    assert not list(rendered.all("Secret"))
    assert [port["port"] for port in rendered.only("Service")["spec"]["ports"]] == [8080]
    assert [port["name"] for port in rendered.container["ports"]] == ["http"]


@pytest.mark.parametrize(("values", "namespaces"), [({}, None), (NAMESPACED, ["team-a", "team-b"])])
def test_a_network_policy_lets_trainers_report_and_the_named_scrape(
    values: Json, namespaces: list[str] | None
) -> None:
    assert not list(Rendered.of(values).all("NetworkPolicy"))
    peer = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
    rendered = Rendered.of(values | {"networkPolicy": {"enabled": True, "metricsFrom": [peer]}})
    policy, labels = rendered.only("NetworkPolicy")["spec"], labels_of(parse(stored(job())), 1)
    assert (
        policy["podSelector"]["matchLabels"] == rendered.only("Deployment")["spec"]["selector"]["matchLabels"]
    )
    progress, metrics = policy["ingress"]
    trainers, selfcheck, standby = progress["from"]
    assert standby == {"podSelector": policy["podSelector"]}
    assert (
        selfcheck["podSelector"]["matchLabels"].items() <= rendered.only("Pod")["metadata"]["labels"].items()
    )
    assert trainers["podSelector"]["matchLabels"].items() <= labels.items()
    chosen = trainers["namespaceSelector"].get("matchExpressions")
    assert (chosen and chosen[0]["values"]) == namespaces
    assert metrics == {"ports": [{"port": "http"}], "from": [peer]}
    names = {port["name"] for port in rendered.container["ports"]}
    assert {rule["ports"][0]["port"] for rule in policy["ingress"]} == names


def test_training_pods_of_named_namespaces_reach_the_operator_and_what_the_administrator_says() -> None:
    hub, peer = {"ports": [{"port": 443}]}, {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
    values = {"trainerNamespaces": ["team-a", "team-b"], "trainerEgress": [hub], "metricsFrom": [peer]}
    rendered = Rendered.of({"networkPolicy": values})
    policies = list(rendered.all("NetworkPolicy"))
    assert [one["metadata"]["namespace"] for one in policies] == ["team-a", "team-b"]
    spec, pod = policies[0]["spec"], planned(job()).job["spec"]["template"]
    assert spec["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    same = {"podSelector": spec["podSelector"]}
    assert spec["ingress"] == [{"from": [same]}, {"ports": [{"port": "metrics"}], "from": [peer]}]
    (container,) = pod["spec"]["containers"]
    assert [port["name"] for port in container["ports"]] == ["metrics"]
    others, dns, progress, given = spec["egress"]
    assert others == {"to": [same]}, "the pods of a job on several nodes"
    assert {port["port"] for port in dns["ports"]} == {53}
    assert given == hub
    (operator,) = progress["to"]
    assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NAMESPACE}
    template = rendered.only("Deployment")["spec"]["template"]["metadata"]
    assert operator["podSelector"]["matchLabels"].items() <= template["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in rendered.container["ports"]}
    assert progress["ports"] == [{"port": ports["progress"]}]


def test_without_progress_training_pods_do_not_reach_the_operator() -> None:
    values = {"networkPolicy": {"trainerNamespaces": ["team-a"]}, "progress": {"enabled": False}}
    spec = Rendered.of(values).only("NetworkPolicy")["spec"]
    assert len(spec["egress"]) == 2
    assert spec["ingress"] == [{"from": [{"podSelector": spec["podSelector"]}]}], (
        "only other training pods do"
    )


def test_the_selfcheck_is_the_operators_pod_with_another_program() -> None:
    """So it needs no other rights, images or tolerations, and no Service leads to it."""
    rendered = Rendered.of(ALL | {"rbac": DEFAULTS["rbac"]})
    hook, operator = rendered.only("Pod"), rendered.pod
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "test"
    selector = rendered.only("Service")["spec"]["selector"]
    assert not selector.items() <= hook["metadata"]["labels"].items()
    (container,) = hook["spec"]["containers"]
    own = ("containers", "restartPolicy", "topologySpreadConstraints", "affinity")
    same = {key: value for key, value in hook["spec"].items() if key not in own}
    assert same == {key: value for key, value in operator.items() if key not in own}
    for key in ("image", "imagePullPolicy", "env", "securityContext", "volumeMounts", "resources"):
        assert container[key] == rendered.container[key]
    namespace, rules = container["args"]
    assert namespace == NAMESPACE
    role = next(one for one in rendered.all("ClusterRole") if "jobs" in str(one["rules"]))
    assert json.loads(rules) == role["rules"]


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "ghcr.io/finetune-dev/finetune-operator:0.1.0"),
        ({"tag": "2.0"}, "ghcr.io/finetune-dev/finetune-operator:2.0"),
        ({"repository": "r.example:5000/op", "tag": "x", "digest": DIGEST}, f"r.example:5000/op@{DIGEST}"),
        ({"reference": "127.0.0.1:5000/finetune-operator:abc", "tag": "x"}, "127.0.0.1:5000/finetune-operator:abc"),
    ],
)  # fmt: skip
def test_the_image_is_named_by_parts_or_as_a_whole(image: Json, reference: str) -> None:
    assert Rendered.of({"image": image}).container["image"] == reference


def test_the_crd_is_that_of_the_api_and_is_kept() -> None:
    found = Rendered.of().only("CustomResourceDefinition")
    assert found["spec"] == crd()["spec"]
    assert found["metadata"]["name"] == crd()["metadata"]["name"]
    assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_crd_can_be_given_up_with_the_release_or_left_out() -> None:
    found = Rendered.of({"crds": {"keep": False}}).only("CustomResourceDefinition")
    assert "annotations" not in found["metadata"]
    assert not list(Rendered.of({"crds": {"enabled": False}}).all("CustomResourceDefinition"))


def test_the_copy_of_the_crd_and_the_table_of_values_are_current(generate: ModuleType) -> None:
    copy, readme = CHART / "files" / "crd-spec.yaml", (CHART / "README.md").read_text()
    assert copy.read_text() == generate.HEADER + generate.chart_crd_spec()
    assert readme == generate.chart_readme(readme, (CHART / "values.yaml").read_text())


def test_install_yaml_is_the_chart_with_its_namespace_and_without_helm(generate: ModuleType) -> None:
    text = (ROOT / "install.yaml").read_text()
    assert text == generate.install_yaml()
    namespace, *objects = [one for one in yaml.safe_load_all(text) if one]
    assert (namespace["kind"], namespace["metadata"]["name"]) == ("Namespace", NAMESPACE)
    of_helm = {"app.kubernetes.io/managed-by", "helm.sh/chart"}
    wanted = list(Rendered.of({"crds": {"keep": False}}).all(*{one["kind"] for one in objects}))
    for one, found in zip(wanted, objects, strict=True):
        labels = one["metadata"]["labels"]
        assert found["metadata"]["labels"] == {k: v for k, v in labels.items() if k not in of_helm}
        assert found.get("spec", {}).get("selector") == one.get("spec", {}).get("selector")
        assert found.get("rules") == one.get("rules")


def test_every_value_is_documented(generate: ModuleType) -> None:
    text = (CHART / "values.yaml").read_text()
    documented = {key for key, _, _ in generate.documented_values(text)}
    undocumented = {
        key for key in _leaves(DEFAULTS) if not any(f"{key}.".startswith(f"{known}.") for known in documented)
    }
    assert undocumented == set()
    assert "| `rbac.scope` | `cluster` |" in (CHART / "README.md").read_text()


def test_the_chart_tells_artifact_hub_of_the_definition_and_shows_a_valid_job() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    annotations = {key.partition("/")[2]: yaml.safe_load(text) for key, text in chart["annotations"].items()}
    definition = crd()
    (known,) = annotations["crds"]
    assert known["name"] == definition["metadata"]["name"]
    assert (known["kind"], known["version"]) == (
        definition["spec"]["names"]["kind"],
        definition["spec"]["versions"][0]["name"],
    )
    (example,) = annotations["crdsExamples"]
    FineTuneJobSpec.from_json(example["spec"])


def test_the_chart_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_a_kubernetes_that_is_too_old_is_refused_and_a_vendors_is_not() -> None:
    def template(version: str) -> int:
        return helm("template", RELEASE, str(CHART), "--kube-version", version).returncode

    assert template("1.29.9")
    assert template("1.30.0") == 0
    assert template("v1.33.1-gke.1000") == 0


def _leaves(values: Json, place: tuple[str, ...] = ()) -> list[str]:
    found = []
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        found += _leaves(value, (*place, key)) if nested else [".".join((*place, key))]
    return found


def test_the_notes_warn_of_monitors_that_a_prometheus_may_not_select() -> None:
    def notes(**monitor: Json) -> str:
        values = {"metrics": {"serviceMonitor": {"enabled": True} | monitor}}
        done = helm("install", RELEASE, str(CHART), "--dry-run=client", values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("NOTES:")[2]

    assert "metrics.serviceMonitor has no labels" in notes()
    assert "has no labels" not in notes(labels={"release": "kube-prometheus-stack"})
