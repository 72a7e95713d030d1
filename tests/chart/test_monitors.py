"""The chart's monitors as Prometheus' own configuration, which promtool accepts, and what they select."""

import re
from pathlib import Path
from typing import Any

import yaml

from builders import job, script_job
from chart.rendering import NAMESPACE, NAMESPACED, Json, Rendered
from chart.test_rules import promtool
from finetune_demo.scrape import configuration, endpoint_targets, pod_targets, rules_of
from unit.operator.worlds import planned

MONITORS: Json = {
    "serviceMonitor": {"enabled": True},
    "podMonitor": {"enabled": True},
    "rules": {"enabled": True},
}


def configured(values: Json) -> tuple[Json, Json]:
    """The scrape jobs of the operator and of training pods."""
    rendered = Rendered.of({"metrics": MONITORS} | values)
    jobs = configuration(rendered.objects, "127.0.0.1:8001", "5s")["scrape_configs"]
    of = {one["job_name"].partition("/")[0]: one for one in jobs}
    return of["ServiceMonitor"], of["PodMonitor"]


def kept(scrape: Json) -> dict[str, Any]:
    """What a target must have, by label of the discovery."""
    steps = scrape["relabel_configs"]
    return {step["source_labels"][0]: step["regex"] for step in steps if step.get("action") == "keep"}


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    objects = Rendered.of({"metrics": MONITORS}).objects
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules_of(objects)))
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump(configuration(objects, "127.0.0.1:8001", "5s")))
    done = promtool("check", "config", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 rules found" in done.stdout


def passes(scrape: Json, target: Json) -> bool:
    """Whether a target passes the steps that keep and drop."""
    steps = [step for step in scrape["relabel_configs"] if step.get("action") in ("keep", "drop")]
    return all(
        bool(re.fullmatch(step["regex"], target["labels"].get(step["source_labels"][0], "")))
        == (step["action"] == "keep")
        for step in steps
    )


def running(metadata: Json, spec: Json, phase: str = "Running") -> Json:
    return {
        "metadata": {"namespace": NAMESPACE, "name": "p"} | metadata,
        "spec": spec,
        "status": {"podIP": "10.0.0.7", "phase": phase},
    }


def training_pod(written: Json, phase: str = "Running") -> Json:
    template = planned(written).job["spec"]["template"]
    return running(template["metadata"], template["spec"], phase)


def test_training_pods_are_targets_while_they_run_and_scripts_never() -> None:
    _, pods = configured({})
    (target,) = pod_targets([training_pod(job())])
    assert target["targets"] == ["10.0.0.7:9100"]
    assert passes(pods, target)
    (ended,) = pod_targets([training_pod(job(), "Succeeded")])
    assert not passes(pods, ended)
    assert pod_targets([training_pod(script_job())]) == []
    names = {step["target_label"]: step for step in pods["relabel_configs"] if "target_label" in step}
    assert target["labels"][names["name"]["source_labels"][0]] == "movie-sentiment"
    assert target["labels"][names["attempt"]["source_labels"][0]] == "1"


def test_of_a_job_on_several_nodes_the_first_pod_is_a_target() -> None:
    """It serves the metrics of all; the others' ports would be down."""
    _, pods = configured({})
    found = []
    for index in ("0", "1", "12"):
        pod = training_pod(job(resources={"nodes": 13}))
        pod["metadata"]["labels"] |= {"batch.kubernetes.io/job-completion-index": index}
        found += [index for target in pod_targets([pod]) if passes(pods, target)]
    assert found == ["0"]


def test_of_the_operators_ports_only_the_one_with_metrics_is_a_target_and_its_labels_stay() -> None:
    operator, pods = configured({})
    rendered = Rendered.of()
    template = rendered.only("Deployment")["spec"]["template"]
    targets = endpoint_targets([rendered.only("Service")], [running(template["metadata"], template["spec"])])
    assert [one["targets"] for one in targets if passes(operator, one)] == [["10.0.0.7:8080"]]
    assert not any(passes(pods, one) for one in targets)
    assert endpoint_targets([rendered.only("Service")], [training_pod(job())]) == []
    assert operator["honor_labels"] is True, "else the namespace of a job becomes exported_namespace"
    assert pods["honor_labels"] is False


def test_other_services_of_a_cluster_are_no_targets() -> None:
    pod = training_pod(job())
    metadata = {"namespace": NAMESPACE, "name": "s"}
    external = {"metadata": metadata, "spec": {"type": "ExternalName", "externalName": "db.example"}}
    nameless = {"metadata": metadata, "spec": {"selector": {}, "ports": [{"port": 80}]}}
    by_number = {"selector": pod["metadata"]["labels"], "ports": [{"port": 80, "targetPort": 9100}]}
    pending = {"metadata": pod["metadata"], "spec": pod["spec"], "status": {"phase": "Pending"}}
    services = [external, nameless, {"metadata": metadata, "spec": by_number}]
    assert endpoint_targets(services, [pod, pending]) == []


def test_pods_are_found_where_the_operator_watches() -> None:
    _, everywhere = configured({})
    operator, some = configured(NAMESPACED)
    assert "__meta_kubernetes_namespace" not in kept(everywhere)
    assert re.compile(kept(some)["__meta_kubernetes_namespace"]).fullmatch("team-b")
    assert not re.compile(kept(some)["__meta_kubernetes_namespace"]).fullmatch("team-c")
    assert re.compile(kept(operator)["__meta_kubernetes_namespace"]).fullmatch(NAMESPACE)


def test_an_interval_is_that_of_the_values() -> None:
    operator, pods = configured({"metrics": MONITORS | {"podMonitor": {"enabled": True, "interval": "15s"}}})
    assert pods["scrape_interval"] == "15s"
    assert "scrape_interval" not in operator, "as Prometheus is configured"
