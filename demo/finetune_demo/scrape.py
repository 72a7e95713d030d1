"""ServiceMonitors, PodMonitors and PrometheusRules as a configuration of Prometheus. Pure.

What the Prometheus Operator does with those of our chart. Pods are scraped through `kubectl proxy`: so it works with
every cluster, needs no credentials, and pods need not be reachable from this machine.

Debian's Prometheus is built without Kubernetes discovery. Its targets come from files instead, with the labels
`__meta_kubernetes_…` that the discovery gives them, so that all that selects and relabels them stays as it is.
"""

import re
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]
RULES_FILE, PODS_FILE, ENDPOINTS_FILE = "rules.yaml", "pod.json", "endpoints.json"
_ENDED = "Failed|Succeeded"


def configuration(objects: Iterable[Json], proxy: str, interval: str) -> Json:
    """The whole configuration; `proxy` is the address of kubectl proxy. Other files lie beside it."""
    jobs: list[Json] = []
    for one in objects:
        if one["kind"] == "ServiceMonitor":
            jobs += [_service_job(one, number, proxy) for number in range(len(one["spec"]["endpoints"]))]
        elif one["kind"] == "PodMonitor":
            jobs += [
                _pod_job(one, number, proxy) for number in range(len(one["spec"]["podMetricsEndpoints"]))
            ]
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [RULES_FILE],
        "scrape_configs": jobs,
    }


def rules_of(objects: Iterable[Json]) -> Json:
    """The groups of all PrometheusRules, as a rule file has them."""
    return {
        "groups": [
            group for one in objects if one["kind"] == "PrometheusRule" for group in one["spec"]["groups"]
        ]
    }


def _service_job(monitor: Json, number: int, proxy: str) -> Json:
    endpoint = monitor["spec"]["endpoints"][number]
    found = [
        *_selected(monitor, "service"),
        _keep("__meta_kubernetes_endpoint_port_name", endpoint["port"]),
        _label("__meta_kubernetes_service_name", "service"),
        _label("__meta_kubernetes_service_name", "job"),
    ]
    return _job(monitor, number, endpoint, "endpoints", found, proxy)


def _pod_job(monitor: Json, number: int, proxy: str) -> Json:
    endpoint = monitor["spec"]["podMetricsEndpoints"][number]
    metadata = monitor["metadata"]
    found = [
        *_selected(monitor, "pod"),
        _keep("__meta_kubernetes_pod_container_port_name", endpoint["port"]),
        {"target_label": "job", "replacement": f"{metadata['namespace']}/{metadata['name']}"},
    ]
    return _job(monitor, number, endpoint, "pod", found, proxy)


def _job(monitor: Json, number: int, endpoint: Json, role: str, found: list[Json], proxy: str) -> Json:
    metadata = monitor["metadata"]
    interval = {"scrape_interval": endpoint["interval"]} if "interval" in endpoint else {}
    return {
        "job_name": f"{monitor['kind']}/{metadata['namespace']}/{metadata['name']}/{number}",
        "honor_labels": endpoint.get("honorLabels", False),
        **interval,
        "file_sd_configs": [{"files": [f"{role}.json"]}],
        "relabel_configs": [
            *_namespaces(monitor["spec"], metadata["namespace"]),
            *found,
            {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": _ENDED, "action": "drop"},
            _label("__meta_kubernetes_namespace", "namespace"),
            _label("__meta_kubernetes_pod_name", "pod"),
            _label("__meta_kubernetes_pod_container_name", "container"),
            {"target_label": "endpoint", "replacement": endpoint["port"]},
            *(_relabeling(one) for one in endpoint.get("relabelings", [])),
            *_through(proxy, endpoint.get("path", "/metrics")),
        ],
    }


def _namespaces(spec: Json, own: str) -> Iterable[Json]:
    selector = spec.get("namespaceSelector", {})
    if not selector.get("any"):
        names = "|".join(re.escape(name) for name in selector.get("matchNames", [own]))
        yield {"source_labels": ["__meta_kubernetes_namespace"], "regex": names, "action": "keep"}


def _selected(monitor: Json, kind: str) -> Iterable[Json]:
    for name, value in monitor["spec"]["selector"]["matchLabels"].items():
        yield _keep(f"__meta_kubernetes_{kind}_label_{_sanitized(name)}", value)


def _through(proxy: str, path: str) -> list[Json]:
    """By the API server's proxy to the pod; `instance` stays the address of the pod."""
    target = [
        "__meta_kubernetes_namespace",
        "__meta_kubernetes_pod_name",
        "__meta_kubernetes_pod_container_port_number",
    ]
    return [
        _label("__address__", "instance"),
        {
            "source_labels": target,
            "separator": "/",
            "regex": "(.+)/(.+)/(.+)",
            "target_label": "__metrics_path__",
            "replacement": f"/api/v1/namespaces/$1/pods/$2:$3/proxy{path}",
        },
        {"target_label": "__address__", "replacement": proxy},
    ]


def _keep(label: str, value: str) -> Json:
    return {"source_labels": [label], "regex": re.escape(value), "action": "keep"}


def _label(source: str, target: str) -> Json:
    return {"source_labels": [source], "target_label": target}


def _relabeling(written: Json) -> Json:
    """camelCase of the Prometheus Operator to snake_case of Prometheus."""
    return {
        re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key): value for key, value in written.items()
    }


def pod_targets(pods: Iterable[Json]) -> list[Json]:
    """A target for each port of each pod that has an address, as Prometheus' role `pod` finds them."""
    return [
        _target(pod, port["containerPort"], _of_port(pod, container, port))
        for pod in pods
        if "podIP" in pod.get("status", {})
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    ]


def endpoint_targets(services: Iterable[Json], pods: list[Json]) -> list[Json]:
    """A target for each port of each pod of each service, as Prometheus' role `endpoints` finds them."""
    found = []
    for service in services:
        metadata, selector = service["metadata"], service["spec"].get("selector") or {}
        ports = {port.get("targetPort"): port.get("name") for port in service["spec"].get("ports", [])}
        labels = {"__meta_kubernetes_service_name": metadata["name"]}
        labels |= _labels("service", metadata)
        for target in pod_targets(pod for pod in pods if selector and _selects(selector, metadata, pod)):
            if name := ports.get(target["labels"]["__meta_kubernetes_pod_container_port_name"]):
                more = labels | {"__meta_kubernetes_endpoint_port_name": name}
                found.append(target | {"labels": target["labels"] | more})
    return found


def _selects(selector: Json, service: Json, pod: Json) -> bool:
    metadata = pod["metadata"]
    labels: Json = metadata.get("labels", {})
    return bool(metadata["namespace"] == service["namespace"]) and selector.items() <= labels.items()


def _target(pod: Json, port: int, labels: Json) -> Json:
    return {
        "targets": [f"{pod['status']['podIP']}:{port}"],
        "labels": labels | _labels("pod", pod["metadata"]),
    }


def _of_port(pod: Json, container: Json, port: Json) -> Json:
    return {
        "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
        "__meta_kubernetes_pod_name": pod["metadata"]["name"],
        "__meta_kubernetes_pod_phase": pod["status"]["phase"],
        "__meta_kubernetes_pod_container_name": container["name"],
        "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
        "__meta_kubernetes_pod_container_port_number": str(port["containerPort"]),
    }


def _labels(kind: str, metadata: Json) -> Json:
    return {
        f"__meta_kubernetes_{kind}_label_{_sanitized(name)}": value
        for name, value in metadata.get("labels", {}).items()
    }


def _sanitized(name: str) -> str:
    return re.sub("[^a-zA-Z0-9_]", "_", name)
