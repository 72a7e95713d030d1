"""How the configuration reaches a pod: byte by byte, as annotations of the pod template or in a ConfigMap."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from builders import LARGE_OBJECTIVE, job, script_job, stored
from finetune_api.resources import LARGEST_NODES
from finetune_api.run import RunConfig
from finetune_core.plan.effective import resolve
from finetune_core.plan.files import LARGEST, files_of
from finetune_core.plan.naming import attempt_child
from finetune_core.plan.preflight import preflight_plan
from finetune_core.plan.reading import parse
from finetune_core.plan.workload import Plan, plan
from finetune_operator.views import job_view
from unit.operator.test_conclusion import ENSEMBLE, MEMBERS
from unit.operator.worlds import files, parsed, planned, run_json, settings

LABELS = ["straße", "日本語", "\U0001d11e", "a\nb\t", "'\"\\", "{}", "\u2028"]
AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PREFIX = "finetune.dev/"


def attempt_of(**fields: Any) -> Plan:
    of = parsed(**fields)
    return plan(of, resolve(of, settings()), 1, settings(), AUTHORITY)


def preflight_of(**fields: Any) -> Plan:
    of = parsed(**fields)
    return preflight_plan(of, resolve(of, settings()), 1, settings(), AUTHORITY, output_bound=False)


def combination_of(**fields: Any) -> Plan:
    of = parsed(job("team", **ENSEMBLE, **fields))
    of = replace(of, status=of.status.model_copy(update={"members": MEMBERS}))
    return plan(of, resolve(of, settings()), 1, settings(), AUTHORITY)


PLANS = pytest.mark.parametrize("of", [attempt_of, preflight_of, combination_of])


def template_of(made: Plan) -> dict[str, Any]:
    template: dict[str, Any] = made.job["spec"]["template"]
    return template


def source_of(made: Plan) -> dict[str, Any]:
    return next(one for one in template_of(made)["spec"]["volumes"] if one["name"] == "config")


@PLANS
def test_a_configuration_travels_in_the_pod_template(of: Callable[..., Plan]) -> None:
    made = of(objective={"classification": {"labels": LABELS}})
    assert made.config_map is None
    assert "downwardAPI" in source_of(made)
    assert files(made).keys() == {"run.json", "ca.crt"}
    assert files(made)["ca.crt"] == AUTHORITY
    read = run_json(made)
    assert read.get("run", read)["objective"]["classification"]["labels"] == LABELS


@PLANS
def test_one_that_is_too_large_travels_in_a_config_map(of: Callable[..., Plan]) -> None:
    made = of(objective=LARGE_OBJECTIVE)
    assert made.config_map
    identity = made.job["metadata"]
    assert made.config_map["metadata"] == identity
    assert made.config_map["immutable"] is True
    assert source_of(made) == {"name": "config", "configMap": {"name": identity["name"]}}
    assert "annotations" not in template_of(made)["metadata"]
    assert files(made).keys() == {"run.json", "ca.crt"}
    read = run_json(made)
    assert (
        read.get("run", read)["objective"]["classification"]["labels"]
        == LARGE_OBJECTIVE["classification"]["labels"]
    )


@pytest.mark.parametrize("letter", ["x", "ß", "日"])
def test_the_limit_counts_bytes_with_the_names(letter: str) -> None:
    child = attempt_child(parsed(), 1)
    room = LARGEST - len(PREFIX + "a") - len(PREFIX + "b")
    width = len(letter.encode())
    text = letter * (room // width) + "x" * (room % width)
    assert files_of(child, None, {"a": text, "b": ""}, in_config_map=False).config_map is None
    assert files_of(child, None, {"a": text, "b": "x"}, in_config_map=False).config_map == child.name


@pytest.mark.parametrize("in_config_map", [False, True])
def test_the_trainer_reads_the_same_from_both(in_config_map: bool) -> None:
    of = parsed(objective={"classification": {"labels": LABELS}})
    made = plan(of, resolve(of, settings()), 1, settings(), AUTHORITY, in_config_map=in_config_map)
    assert bool(made.config_map) is in_config_map
    assert RunConfig.from_json(run_json(made)).objective.classification.labels == LABELS  # type: ignore[union-attr]
    assert files(made) == files(attempt_of(objective={"classification": {"labels": LABELS}}))


@pytest.mark.parametrize(("nodes", "in_config_map"), [(2, False), (LARGEST_NODES, True)])
def test_the_files_of_accelerate_count_and_travel_with_the_others(nodes: int, in_config_map: bool) -> None:
    made = planned(script_job(resources={"nodes": nodes, "gpusPerNode": 1}))
    assert bool(made.config_map) is in_config_map
    found = files(made, "accelerate")
    assert "run.json" not in found
    ranks = [json.loads(found[f"accelerate-{rank}.yaml"])["machine_rank"] for rank in range(nodes)]
    assert ranks == list(range(nodes))


def test_an_annotation_of_the_administrator_is_kept_and_does_not_hide_ours() -> None:
    given = settings(pod_annotations={"finetune.dev/run.json": "x", "team": "ml"})
    of = parse(stored(job()))
    made = plan(of, resolve(of, given), 1, given, AUTHORITY)
    assert run_json(made)["job"]["name"] == "movie-sentiment"
    assert template_of(made)["metadata"]["annotations"]["team"] == "ml"


def test_a_job_is_seen_to_mount_its_config_map_and_no_other_one() -> None:
    inputs = {"train": {"uri": "configMap://reviews/train.jsonl"}}
    for fields, mounts in (({"dataset": inputs}, False), ({"objective": LARGE_OBJECTIVE}, True)):
        body = attempt_of(**fields).job
        body["metadata"]["uid"] = "u"
        assert job_view(body).mounts_config_map is mounts
