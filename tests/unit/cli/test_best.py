"""`finetune best` prints a job that the API server takes, or says why there is none."""

from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from ruamel.yaml import YAML
from typer.testing import CliRunner

from builders import job
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_cli.main import app

Body = dict[str, Any]
SEARCH = {"parameters": [{"path": "training.batchSize", "choice": [16, 32]}]}
BEST = {"number": 2, "name": "tune-t002", "parameters": {"training.batchSize": "16"}}


def shown(monkeypatch: pytest.MonkeyPatch, *bodies: Body, name: str = "tune") -> tuple[int, str, str]:
    """Exit code, output and errors, with these FineTuneJobs in the cluster."""
    by_name = {body["metadata"]["name"]: body for body in bodies}

    def read(group: str, version: str, namespace: str, plural: str, name: str, **_: Any) -> Body:
        if name not in by_name:
            raise ApiException(status=404)
        return by_name[name]

    monkeypatch.setattr(config, "load_config", lambda: None)
    monkeypatch.setattr(client.CustomObjectsApi, "get_namespaced_custom_object", staticmethod(read))
    done = CliRunner().invoke(app, ["best", name, "-n", "team"])
    return done.exit_code, done.stdout, done.stderr


def parent(**trials: Any) -> Body:
    return job("tune", search=SEARCH) | {"status": {"trials": trials}}


def test_the_winner_is_a_job_with_its_values_the_same_rows_and_another_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = {"train": {"uri": "pvc://demo/a.jsonl"}, "validation": {"seed": 5}}
    output = {"uri": "pvc://tune-1/model-trials/t002", "dtype": "BFloat16"}
    trial = job("tune-t002", training={"batchSize": 16}, dataset=dataset, output=output)
    code, text, _ = shown(monkeypatch, parent(best=BEST), trial)
    assert code == 0
    written = YAML(typ="safe").load(text)
    assert written["metadata"]["name"] == "tune-best"
    spec = FineTuneJobSpec.from_json(written["spec"])
    assert spec.training
    assert spec.training.batch_size == 16
    assert written["spec"]["dataset"]["validation"] == {"seed": 5}
    assert written["spec"]["output"] == {"dtype": "BFloat16"}


@pytest.mark.parametrize(
    ("bodies", "said"),
    [
        ([], "not found in namespace team"),
        ([job("tune")], "has no spec.search"),
        ([job("tune", search=SEARCH)], "no trial of tune has succeeded yet"),
        ([parent(total=3)], "no trial of tune has succeeded yet"),
        ([parent(best=BEST)], "was deleted; its values were training.batchSize=16"),
    ],
)
def test_without_a_winner_it_says_why(monkeypatch: pytest.MonkeyPatch, bodies: list[Body], said: str) -> None:
    code, text, error = shown(monkeypatch, *bodies)
    assert (code, text) == (1, "")
    assert said in error
