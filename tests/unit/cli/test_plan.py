"""`finetune plan` prints what the operator creates: the same objects, and nothing that needs a cluster."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from builders import job
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.preflight import PreflightConfig
from finetune_api.run import RunConfig
from mounted import files_in
from unit.cli.commands import finetune

ROOT = Path(__file__).resolve().parents[3]
QUICKSTART = ROOT / "examples" / "quickstart.yaml"


def planned(*arguments: Any) -> list[dict[str, Any]]:
    done = finetune("plan", *arguments)
    assert done.code == 0, done.err
    return list(YAML(typ="safe").load_all(done.out))


def run_json(of: dict[str, Any]) -> Any:
    return json.loads(files_in(of["spec"]["template"], None)["run.json"])


def test_a_job_is_a_preflight_then_a_claim_and_a_job() -> None:
    check, claim, job = planned(QUICKSTART, "-n", "team", "--setting", "trainer_image=registry/t:1")
    assert check["metadata"]["name"].endswith("-p1")
    assert "nvidia.com/gpu" not in json.dumps(check)
    assert PreflightConfig.from_json(run_json(check)).run.devices.gpus == 1
    assert [one["kind"] for one in (check, claim, job)] == ["Job", "PersistentVolumeClaim", "Job"]
    assert {one["metadata"]["namespace"] for one in (check, claim, job)} == {"team"}
    config = RunConfig.from_json(run_json(job))
    assert config.training.epochs == 2
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry/t:1"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}


@pytest.mark.parametrize(("example", "runs"), [("ensemble.yaml", 3), ("search.yaml", 1)])
def test_a_parent_is_a_claim_and_its_first_runs(example: str, runs: int) -> None:
    claim, *bodies = planned(ROOT / "examples" / example, "--setting", "preflight=Skip")
    assert claim["kind"] == "PersistentVolumeClaim"
    assert [one["kind"] for one in bodies] == ["FineTuneJob"] * runs
    for body in bodies:
        FineTuneJobSpec.from_json(body["spec"])


def test_what_only_the_cluster_knows_is_said(tmp_path: Path) -> None:
    claims = [{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}]
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job("claimed", resources={"claims": claims})))
    done = finetune("plan", file)
    assert done.code == 0
    assert "claimed: the number of GPUs is that of ResourceClaimTemplate two-gpus in the cluster" in done.err
    assert "ResourceClaimTemplate" not in finetune("plan", QUICKSTART).err
    file.write_text(json.dumps(job("on-cpu", resources={"claims": claims, "gpusPerNode": 0})))
    assert (
        "begins if ResourceClaimTemplate two-gpus in the cluster asks for no GPUs"
        in finetune("plan", file).err
    )


def test_json_is_a_list_that_kubectl_reads() -> None:
    found = json.loads(finetune("plan", QUICKSTART, "-o", "json").out)
    assert (found["kind"], len(found["items"])) == ("List", 3)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "gpus=1",
            "--setting gpus: Extra inputs are not permitted; settings are those of the operator (address",
        ),
        ("workers=0", "--setting workers: Input should be greater"),
        ("workers", "--setting 'workers' is not an assignment"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, said: str) -> None:
    done = finetune("plan", QUICKSTART, "--setting", setting)
    assert (done.code, done.out) == (1, "")
    assert said in done.err
