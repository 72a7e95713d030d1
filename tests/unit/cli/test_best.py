"""`finetune best` prints a job that the API server takes, or says why there is none."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from api_stub import Stub
from builders import job, stored
from finetune_api.finetunejob import FineTuneJobSpec
from unit.cli.commands import finetune

Body = dict[str, Any]
SEARCH = {"parameters": [{"path": "training.batchSize", "choice": [16, 32]}]}
BEST = {"number": 2, "name": "tune-t002", "parameters": {"training.batchSize": "16"}}


def parent(**trials: Any) -> Body:
    return stored(job("tune", search=SEARCH), namespace="team") | {"status": {"trials": trials}}


def test_the_winner_is_a_job_with_its_values_the_same_rows_and_another_output(stub: Stub) -> None:
    dataset = {"train": {"uri": "pvc://demo/a.jsonl"}, "validation": {"seed": 5}}
    output = {"uri": "pvc://tune-1/model-trials/t002", "dtype": "BFloat16"}
    stub.put(
        parent(best=BEST),
        stored(
            job("tune-t002", training={"batchSize": 16}, dataset=dataset, output=output), namespace="team"
        ),
    )
    done = finetune("best", "tune")
    assert done.code == 0
    written = YAML(typ="safe").load(done.out)
    assert written["metadata"]["name"] == "tune-best"
    spec = FineTuneJobSpec.from_json(written["spec"])
    assert spec.training
    assert spec.training.batch_size == 16
    assert written["spec"]["dataset"]["validation"] == {"seed": 5}
    assert written["spec"]["output"] == {"dtype": "BFloat16"}


@pytest.mark.parametrize(
    ("bodies", "code", "said"),
    [
        ([], 2, "tune not found in namespace team of context test"),
        ([stored(job("tune"), namespace="team")], 1, "has no spec.search"),
        ([stored(job("tune", search=SEARCH), namespace="team")], 1, "no trial of tune has succeeded yet"),
        ([parent(total=3)], 1, "no trial of tune has succeeded yet"),
        ([parent(best=BEST)], 1, "was deleted; its values were training.batchSize=16"),
    ],
)
def test_without_a_winner_it_says_why(stub: Stub, bodies: list[Body], code: int, said: str) -> None:
    stub.put(*bodies)
    done = finetune("best", "tune")
    assert (done.code, done.out) == (code, "")
    assert said in done.err
