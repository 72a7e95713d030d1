"""Prints the best trial of a search as a FineTuneJob that can be applied."""

import sys
from typing import Any

from ruamel.yaml import YAML

from finetune_api import API_VERSION, GROUP, KIND, PLURAL, VERSION

Body = dict[str, Any]

_TIMEOUT_SECONDS = 30.0


def print_best(name: str, namespace: str) -> str | None:
    """Print the winner of a search to standard output; what went wrong instead, if anything."""
    parent = _read(name, namespace)
    if parent is None:
        return f"FineTuneJob {name} not found in namespace {namespace}"
    if "search" not in parent["spec"]:
        return f"FineTuneJob {name} has no spec.search; only a search has a best trial"
    best = ((parent.get("status") or {}).get("trials") or {}).get("best")
    if not best:
        return f"no trial of {name} has succeeded yet; kubectl get ftj {name} shows how far it is"
    trial = _read(best["name"], namespace)
    if trial is None:
        values = ", ".join(f"{path}={value}" for path, value in best.get("parameters", {}).items())
        return f"the best trial {best['name']} was deleted; its values were {values}"
    YAML().dump(job_of(name, best, trial), sys.stdout)
    return None


def job_of(name: str, best: Body, trial: Body) -> Body:
    """A FineTuneJob with the best trial's spec and the default output. It holds out the same rows."""
    spec = dict(trial["spec"])
    output = {key: value for key, value in (spec.pop("output", None) or {}).items() if key != "uri"}
    note = f"trial {best['number']} of search {name}"
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": f"{name}-best", "annotations": {f"{GROUP}/best-of": note}},
        "spec": spec | ({"output": output} if output else {}),
    }


def _read(name: str, namespace: str) -> Body | None:
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException

    config.load_config()
    try:
        found: Body = client.CustomObjectsApi().get_namespaced_custom_object(
            GROUP, VERSION, namespace, PLURAL, name, _request_timeout=_TIMEOUT_SECONDS
        )
    except ApiException as error:
        if error.status == 404:
            return None
        raise
    return found
