"""A trial is the parent's job with other values in the searched fields, and with nothing else changed."""

from dataclasses import replace
from typing import Any

import pytest

from builders import job, manifest, stored
from finetune_api.finetunejob import JOB_RULES, FineTuneJobSpec
from finetune_api.search import MOST_TRIALS
from finetune_api.status import ResolvedData, ResolvedModel, ResolvedStatus
from finetune_core.plan.effective import resolve
from finetune_core.plan.naming import Run, parent_in, run_name
from finetune_core.plan.reading import parse
from finetune_core.plan.run_config import run_config
from finetune_core.search.plan import reseeded, run_body
from unit.api.cases import ACCEPTED, Case
from unit.operator.search.spaces import BATCH, RATE, search_of
from unit.operator.worlds import settings

Json = dict[str, Any]
WHOLE: Json = {
    "training": {"seed": 5, "epochs": 2, "evaluation": {"bestMetric": "accuracy"}},
    "resources": {"gpusPerNode": 2, "limits": {"memory": "8Gi"}},
    "scheduling": {"priorityClassName": "low", "nodeSelector": {"a": "b"}},
    "retry": {"limit": 7},
    "output": {"uri": "pvc://models/tuned", "dtype": "BFloat16"},
    "ttlSecondsAfterFinished": 60,
    "activeDeadlineSeconds": 900,
    "startupDeadlineSeconds": 300,
    "image": "registry.example/other:1",
    "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
}


def trial_of(values: Json, number: int = 3, **fields: Any) -> Json:
    of = parse(stored(job("tune", search=search_of(), **fields)))
    body = run_body(of, resolve(of, settings()), Run(number), values)
    FineTuneJobSpec.from_json(body["spec"])
    return body


def test_a_trial_has_the_parents_fields_and_its_own_values() -> None:
    body = trial_of({RATE: 3e-4, BATCH: 64}, **WHOLE)
    expected = FineTuneJobSpec.from_json(job(**WHOLE)["spec"]).to_json()
    del expected["activeDeadlineSeconds"], expected["suspend"]
    expected["output"]["uri"] = "pvc://models/tuned-trials/t003"
    expected["dataset"]["validation"] = {"seed": 5}
    expected["training"]["batchSize"] = 64
    expected["training"].setdefault("optimizer", {})["learningRate"] = 3e-4
    assert body["spec"] == expected


def test_no_field_of_a_spec_is_forgotten() -> None:
    own = {"search", "ensemble", "gate", "suspend", "activeDeadlineSeconds", "preflight"}
    written = trial_of({RATE: 1e-4}, **WHOLE)["spec"].keys()
    known = {field.alias for field in FineTuneJobSpec.model_fields.values()}
    assert known - set(written) == own | {"command"}, "a search and a command exclude each other"


def test_the_gate_is_on_the_parents_model_and_every_trial_measures_what_it_compares() -> None:
    written = trial_of({RATE: 1e-4}, gate={"metric": "mcc", "betterThanBaselineBy": 0.1})["spec"]
    assert "gate" not in written
    assert written["training"]["evaluation"] == {"metrics": ["accuracy", "f1", "mcc"], "baseline": True}


def test_trials_hold_out_the_same_rows_even_if_the_seed_is_searched() -> None:
    trials = [trial_of({"training.seed": seed}, training={"seed": 5}) for seed in (1, 2)]
    assert [one["spec"]["dataset"]["validation"]["seed"] for one in trials] == [5, 5]
    assert [one["spec"]["training"]["seed"] for one in trials] == [1, 2]


@pytest.mark.parametrize(
    "validation", [{"uri": "pvc://demo/data/held-out.jsonl"}, {"fraction": 0.2, "seed": 9}], ids=str
)
def test_what_the_parent_says_of_validation_stays(validation: Json) -> None:
    dataset = {"train": {"uri": "pvc://demo/data/a.jsonl"}, "validation": validation}
    assert trial_of({RATE: 1e-4}, dataset=dataset)["spec"]["dataset"]["validation"] == validation


def test_without_an_output_the_trials_share_the_parents_claim() -> None:
    assert trial_of({RATE: 1e-4})["spec"]["output"]["uri"] == "pvc://tune-7d2c1e8a/model-trials/t003"


def test_a_trial_is_known_by_name_label_and_controller_together() -> None:
    body = trial_of({RATE: 1e-4})
    found = parent_in(body["metadata"])
    assert found is not None
    assert (found.name, found.run) == ("tune", Run(3))
    for broken in (
        {"name": "tune-7d2c1e8a-t004"},
        {"labels": {"finetune.dev/trial": "4"}},
        {"labels": {"finetune.dev/trial": "-1"}},
        {"labels": {"finetune.dev/trial": "3", "finetune.dev/repeat": "1-1"}},
        {"labels": {"finetune.dev/trial": "3", "finetune.dev/repeat": "10-1"}},
        {"labels": "no map"},
        {"ownerReferences": []},
        {"ownerReferences": [{"kind": "FineTuneJob", "name": "tune", "uid": "other", "controller": True}]},
        {"ownerReferences": [{"kind": "Job", "name": "tune", "uid": found.uid, "controller": True}]},
    ):
        assert parent_in(body["metadata"] | broken) is None, broken


def test_the_longest_name_of_a_trial_is_one_that_a_job_may_have() -> None:
    of = parse(stored(job("a" * 26, search=search_of())))
    body = {"metadata": {"name": run_name(of, Run(MOST_TRIALS))}, "spec": {}}
    assert all(rule.holds(body) for rule in JOB_RULES if rule.holds)
    too_long = {"metadata": {"name": "a" * 27}, "spec": {"search": search_of()}}
    assert not all(rule.holds(too_long) for rule in JOB_RULES if rule.holds)


@pytest.mark.parametrize(("seed", "expected"), [(None, 44), (9, 11), (2**31 - 1, 1)])
def test_a_repetition_of_a_trial_with_its_own_seed_has_another_one(seed: int | None, expected: int) -> None:
    path = "training.seed"
    of = parse(stored(job("tune", search=search_of({"path": path, "choice": [seed]}), training={"seed": 5})))
    values = reseeded(of.spec, {path: seed}, 2)
    body = run_body(of, resolve(of, settings()), Run(3, rank=1, seed=2), values)
    assert body["spec"]["training"]["seed"] == expected


def test_a_repetition_has_the_trials_values_and_another_seed_and_name() -> None:
    of = parse(stored(job("tune", search=search_of(), training={"seed": 5})))
    values = reseeded(of.spec, {RATE: 3e-4}, 2)
    body = run_body(of, resolve(of, settings()), Run(3, rank=1, seed=2), values)
    assert body["metadata"]["name"] == "tune-7d2c1e8a-c1s2"
    assert body["spec"]["training"]["seed"] == 7
    assert body["spec"]["training"]["optimizer"]["learningRate"] == 3e-4
    assert body["spec"]["dataset"]["validation"]["seed"] == 5, "on the same rows"
    assert body["spec"]["output"]["uri"].endswith("-trials/c1s2")
    found = parent_in(body["metadata"])
    assert found is not None
    assert found.run == Run(3, 1, 2)


def test_the_runs_of_a_search_share_their_tokens_on_the_parents_claim() -> None:
    def planned(body: Json) -> Json:
        of = parse(stored(body))
        return run_config(of, resolve(of, settings()), 1, settings()).to_json()["output"]

    of = parse(stored(job("tune", search=search_of())))
    bodies = [run_body(of, resolve(of, settings()), run, {RATE: 1e-4}) for run in (Run(1), Run(1, 1, 1))]
    assert {planned(body)["tokenDir"] for body in bodies} == {f"/mnt/output/.finetune/{of.uid}/tokens"}
    assert "tokenDir" not in planned(job("alone"))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_later_trials_read_the_hub_at_the_commit_of_the_first() -> None:
    inputs = {
        "model": {"uri": "hf://org/base"},
        "dataset": {
            "train": {"uri": "hf://datasets/org/data@main/data/train-*.parquet"},
            "test": {"uri": "pvc://demo/test.csv"},
        },
    }
    of = parse(stored(job("tune", search=search_of(), **inputs)))
    read = ResolvedStatus(
        model=ResolvedModel(uri="hf://org/base", revision=COMMIT),
        train=ResolvedData(uri="hf://datasets/org/data@main/data/train-*.parquet", revision=COMMIT),
        test=ResolvedData(uri="pvc://demo/test.csv"),
    )
    later = replace(of, status=of.status.model_copy(update={"resolved": read}))
    spec = run_body(later, resolve(later, settings()), Run(2), {RATE: 1e-4})["spec"]
    assert spec["model"]["uri"] == f"hf://org/base@{COMMIT}"
    assert spec["dataset"]["train"]["uri"] == f"hf://datasets/org/data@{COMMIT}/data/train-*.parquet"
    assert spec["dataset"]["test"]["uri"] == "pvc://demo/test.csv"
    other = run_body(later, resolve(later, settings()), Run(3), {"model.uri": "hf://org/other"})["spec"]
    assert other["model"]["uri"] == "hf://org/other"


@pytest.mark.parametrize(
    "case", [case for case in ACCEPTED if {"search", "ensemble"} & set(case.spec)], ids=str
)
def test_every_search_or_ensemble_that_the_api_server_takes_has_runs_with_a_valid_spec(case: Case) -> None:
    """The longest name of a run too."""
    of = parse(stored(manifest("tune", case.spec)))
    last = Run(member=32) if of.spec.ensemble and not of.spec.search else Run(999)
    body = run_body(of, resolve(of, settings()), last, {"training.seed": 1})
    assert FineTuneJobSpec.from_json(body["spec"]).output
