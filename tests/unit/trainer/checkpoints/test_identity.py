"""By what a checkpoint and a published model are known again: the same from version to version."""

import json
from pathlib import Path

import pytest

from finetune_api.combine import CombineConfig
from finetune_api.run import RunConfig
from finetune_trainer.config import fingerprint, run_identity

GOLDEN = Path(__file__).parents[3] / "golden"
KNOWN = {
    "smallest": (
        "78d9debe139ea51edb741b9154e37c4f54aa458020ca3e186ffde391874acb5d",
        "6a80345a31de90ddfdfa88f00d294e44b54301c64f510f042ae6e91190f6bd03",
    ),
    "full": (
        "1eb1be6d98d987806337eb73c7010ee064f64c50522a4892d1d62d9de0f68be9",
        "79e9eb90ae14db0eb07f3cacacdeb838220c9d290518e0d045b948b2a21516c4",
    ),
}
"""Of golden/run-config-v1.json, by commit 18eac05. With another one no checkpoint is resumed after an update."""


@pytest.mark.parametrize("name", KNOWN)
def test_runs_are_known_again_after_an_update_of_the_trainer(name):
    written = json.loads((GOLDEN / "run-config-v1.json").read_text())[name]
    written["output"].pop(
        "dtype", None
    )  # which that commit did not have, nor the seed of a split, nor an average
    written["training"].pop("ema", None)
    for added in ("baseline", "forgetting", "samples"):
        written["training"]["evaluation"].pop(added, None)
    written["model"].pop("weights", None)
    for added in ("forgetting", "rows", "chatTemplatePath"):
        written["dataset"].pop(added, None)
    written.pop("gate", None)
    written["dataset"].get("split", {}).pop("seed", None)
    config = RunConfig.from_json(written)
    assert (fingerprint(config, {"train": "sha256:1"}), run_identity(config)) == KNOWN[name]


def test_combinations_are_known_again_after_an_update_of_the_trainer():
    given = json.loads((GOLDEN / "combine-config-v1.json").read_text())["smallest"]
    known = "30f0f70770c65e0c43ce884bfed73b9c11f5ea0bc2f14b0703442acc31f86d9a"
    assert run_identity(CombineConfig.from_json(given)) == known


def test_what_decides_a_combination_is_part_of_its_identity():
    given = json.loads((GOLDEN / "combine-config-v1.json").read_text())["full"]

    def identity(**changes):
        return run_identity(CombineConfig.from_json(given | changes))

    rows = given["dataset"]
    elsewhere = rows | {"train": rows["train"] | {"path": "/elsewhere"}}
    assert identity(dataset=elsewhere) == identity(search=None) == identity()
    other = {"seed": 8, "fraction": 0.2}
    changed = [
        {"publish": "Always"},
        {"bestMetric": "f1"},
        {"missing": []},
        {"dataset": rows | {"split": other}},
        {"combine": "GreedySoup"},
        {"members": given["members"][:1] * 3},
    ]
    assert len({identity(), *(identity(**change) for change in changed)}) == len(changed) + 1
