"""The members of an ensemble: their values, what is refused before the first one trains, and what combines them."""

from dataclasses import replace
from typing import Any

import pytest

from builders import job, spec, stored
from finetune_api.combine import CombineConfig, CombineRule
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus, MemberStatus, TrialState
from finetune_core.ensemble.members import fault_in, values_of
from finetune_core.plan.conclusion import conclusion_config
from finetune_core.plan.effective import resolve
from finetune_core.plan.naming import Run, parent_in
from finetune_core.plan.reading import parse
from finetune_core.plan.workload import plan
from finetune_core.search.plan import run_body
from unit.operator.worlds import settings

Json = dict[str, Any]
RATE = "training.optimizer.learningRate"


def read(**fields: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.from_json(spec(**fields))


def body_of(member: int, **fields: Any) -> Json:
    of = parse(stored(job("team", **fields)))
    body = run_body(of, resolve(of, settings()), Run(member=member), values_of(of.spec, member))
    FineTuneJobSpec.from_json(body["spec"])
    return body


def test_members_differ_in_their_seed_and_are_evaluated_on_the_same_rows() -> None:
    members = [body_of(n, ensemble={"members": 3}, training={"seed": 7}) for n in (1, 2, 3)]
    assert [one["spec"]["training"]["seed"] for one in members] == [7, 8, 9]
    assert {one["spec"]["dataset"]["validation"]["seed"] for one in members} == {7}
    assert [one["metadata"]["name"] for one in members] == [f"team-7d2c1e8a-m{n}" for n in (1, 2, 3)]
    assert members[1]["spec"]["output"]["uri"] == "pvc://team-7d2c1e8a/model-members/m2"
    assert all("ensemble" not in one["spec"] for one in members)
    found = parent_in(members[2]["metadata"])
    assert found
    assert found.run == Run(member=3)


def test_members_have_their_overrides_and_nothing_else_of_their_own() -> None:
    overrides = [{RATE: 1e-5}, {RATE: 1e-4, "training.seed": 3}]
    first, second = (body_of(n, ensemble={"overrides": overrides}) for n in (1, 2))
    assert first["spec"]["training"]["optimizer"]["learningRate"] == 1e-5
    assert second["spec"]["training"]["seed"] == 3
    assert second["spec"]["training"]["optimizer"]["learningRate"] == 1e-4
    for name in ("model", "dataset", "objective"):
        assert first["spec"][name] == second["spec"][name]


@pytest.mark.parametrize(
    ("adapter", "overrides"),
    [({"lora": {"rank": 4}}, {RATE: 1e-5}), (None, {"model.adapter": {"lora": {"merge": False}}})],
)
def test_members_with_an_adapter_are_published_merged(adapter: Json | None, overrides: Json) -> None:
    model = {"uri": "pvc://demo/models/minilm"} | ({"adapter": adapter} if adapter else {})
    body = body_of(1, model=model, ensemble={"overrides": [overrides, {RATE: 1e-3}]})
    assert body["spec"]["model"]["adapter"]["lora"]["merge"] is True


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            [{RATE: 1}, {"learningRate": 1}],
            "overrides[1]: learningRate: unknown field; did you mean training.opt",
        ),
        ([{"seed": 1}, {RATE: 1e-3}], "overrides[0]: seed: unknown field; did you mean training.seed?"),
        ([{"training": {"seed": 1}}, {RATE: 1}], "overrides[0]: training: write the path of each field"),
        ([{RATE: 5}, {RATE: 1}], "overrides[0]: training.optimizer.learningRate: "),
        ([{RATE: 1e-3}, {RATE: 1e-3}], "overrides[1]: it trains the same model as overrides[0]"),
        ([{RATE: 1e-3}, {"training.seed": 42, RATE: 1e-3}], "overrides[1]: it trains the same model"),
        ([{"dataset.preprocessing.lowercase": True}, {RATE: 1e-3}], "read the same rows as the same tokens"),
        ([{"dataset.train.uri": "pvc://demo/b.csv"}, {RATE: 1e-3}], "read the same rows as the same tokens"),
        (
            [{"model.tokenizer": {"uri": "pvc://demo/t"}}, {RATE: 1e-3}],
            "read the same rows as the same tokens",
        ),
        ([{"objective.classification.labels": ["a", "b"]}, {RATE: 1e-3}], "changes objective.classification"),
        ([{"training.evaluation.bestMetric": "f1"}, {RATE: 1e-3}], "changes training.evaluation.bestMetric"),
        ([{"objective.regression": {}}, {RATE: 1e-3}], "changes the objective"),
        (
            [{"training.evaluation.forgetting": [{"uri": "pvc://data/other.jsonl"}]}, {RATE: 1e-3}],
            "changes training.evaluation.forgetting",
        ),
        *(
            ([{RATE: 1e-3}, {RATE: 1e-4} | secret], "overrides[1]: model.credentials")
            for secret in (
                {"model.credentials": {"secretName": "of-another"}},
                {"model.credentials.secretName": "of-another"},
            )
        ),
        ([{"output.uri": "pvc://a/b"}, {RATE: 1e-3}], "overrides[0]: output.uri: "),
        ([{"retry.limit": 1}, {RATE: 1e-3}], "overrides[0]: retry.limit: "),
    ],
)
def test_what_cannot_be_combined_is_refused_before_a_member_trains(overrides: list[Json], says: str) -> None:
    fault = fault_in(read(ensemble={"overrides": overrides}))
    assert fault
    assert says in fault


LORA: Json = {"model": {"uri": "pvc://demo/models/minilm", "adapter": {"lora": {}}}}
MERGE = "model.adapter.lora.merge"


@pytest.mark.parametrize(
    "fields",
    [
        {"ensemble": {"overrides": [{MERGE: True}, {MERGE: False}]}},
        {"search": {"parameters": [{"path": MERGE, "choice": [True, False]}]}, "ensemble": {"fromSearch": 2}},
    ],
    ids=["overrides", "search"],
)
def test_members_cannot_differ_in_merging_which_all_of_them_do(fields: Json) -> None:
    fault = fault_in(read(**LORA, **fields))
    assert fault
    assert "members of an ensemble are published merged; remove it" in fault


def test_overrides_that_differ_in_nothing_but_merging_train_the_same_model() -> None:
    overrides = [{"model.adapter": {"lora": {"rank": 4, "merge": merge}}} for merge in (True, False)]
    assert "it trains the same model" in str(fault_in(read(**LORA, ensemble={"overrides": overrides})))


def test_a_search_over_what_members_must_share_cannot_become_an_ensemble() -> None:
    searched = {"path": "dataset.preprocessing.maxLength", "choice": [64, 128]}
    fault = fault_in(read(search={"parameters": [searched]}, ensemble={"fromSearch": 2}))
    assert fault
    assert fault.startswith("spec.search.parameters[0]: dataset.preprocessing.maxLength: ")
    fine = {"path": RATE, "choice": [1e-5, 1e-4]}
    assert fault_in(read(search={"parameters": [fine]}, ensemble={"fromSearch": 2})) is None


@pytest.mark.parametrize("path", ["model.uri", "model.head.hiddenSizes", "model.initialize"])
def test_members_of_a_soup_that_start_elsewhere_are_refused_before_they_train(path: str) -> None:
    """The trainer refuses other architectures, but only after all members have trained."""
    value: Any = {"model.uri": "pvc://demo/other", "model.initialize": "Random"}.get(path, [8])
    overrides = [{RATE: 1e-3}, {path: value}]
    assert fault_in(read(ensemble={"overrides": overrides})) is None
    assert fault_in(read(ensemble={"overrides": overrides, "combine": "Distil"})) is None
    for combine in ("AverageWeights", "GreedySoup"):
        assert fault_in(read(ensemble={"overrides": overrides, "combine": combine})) == (
            f"spec.ensemble.overrides[1]: {path}: {combine} averages weights that start as the same in the same"
            " architecture; set spec.ensemble.combine: AverageProbabilities, or remove it"
        )
    searched = {"parameters": [{"path": path, "choice": [value]}]}
    fault = fault_in(read(search=searched, ensemble={"fromSearch": 2, "combine": "AverageWeights"}))
    assert fault
    assert fault.startswith(f"spec.search.parameters[0]: {path}: AverageWeights averages")


def combining(**fields: Any) -> CombineConfig:
    of = parse(stored(job("team", **({"ensemble": {"members": 3, "minMembers": 2}} | fields))))
    members = [
        MemberStatus(
            number=n,
            name=f"team-m{n}",
            state=TrialState.FAILED if n == 2 else TrialState.SUCCEEDED,
            uri=None if n == 2 else f"pvc://c/x-members/m{n}",
            digest=f"sha256:{n}",
        )
        for n in (1, 2, 3)
    ]
    of = replace(of, status=FineTuneJobStatus(members=members))
    config = conclusion_config(of, resolve(of, settings()), 2, settings(), None)
    assert isinstance(config, CombineConfig)
    assert CombineConfig.from_json(config.to_json()) == config
    return config


def test_the_combination_reads_the_models_that_there_are_and_names_the_others() -> None:
    config = combining()
    assert [one.path for one in config.members] == ["/mnt/output/x-members/m1", "/mnt/output/x-members/m3"]
    assert config.members[0].digest == "sha256:1"
    assert config.missing == ["team-m2"]
    assert config.combine is CombineRule.AVERAGE_PROBABILITIES
    assert config.job.attempt == 2


def test_the_combination_holds_out_the_rows_that_the_members_held_out() -> None:
    config = combining(training={"seed": 11})
    assert config.dataset.split
    assert (config.dataset.split.fraction, config.dataset.split.seed) == (0.1, 11)
    assert config.dataset.train
    held_out = {"uri": "pvc://demo/data/held-out.jsonl"}
    data = combining(dataset={"train": {"uri": "pvc://demo/a.jsonl"}, "validation": held_out}).dataset
    assert data.split is None
    assert data.validation
    assert data.validation.uri == held_out["uri"]


@pytest.mark.parametrize(
    ("objective", "combine"), [("regression", "AveragePredictions"), ("causalLM", "AverageWeights")]
)
def test_how_members_are_combined_follows_from_the_objective(objective: str, combine: str) -> None:
    assert combining(objective={objective: {}}).combine == combine


def test_combining_asks_for_no_gpu() -> None:
    of = parse(stored(job("team", ensemble={"members": 2}, resources={"gpusPerNode": 4})))
    members = [
        MemberStatus(number=n, name=f"m{n}", state=TrialState.SUCCEEDED, uri=f"pvc://c/m{n}") for n in (1, 2)
    ]
    of = replace(of, status=FineTuneJobStatus(members=members))
    made = plan(of, resolve(of, settings()), 1, settings(), "CA")
    (container,) = made.job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {}
