"""The objects of an attempt, as golden files, and what has to hold for all of them."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import job, script_job, stored
from finetune_api import uris
from finetune_api.run import RUN_CONFIG_PATH, RunConfig
from finetune_core.plan.effective import resolve
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.reading import parse
from finetune_core.plan.volumes import mounts_of, path_of
from finetune_core.plan.workload import Plan, plan
from finetune_core.settings import OperatorSettings
from finetune_trainer.process import threads
from unit.operator.worlds import TRAINER, files, planned, run_json, settings

GOLDEN = Path(__file__).parents[2] / "golden"
RUN_JSON = "finetune.dev/run.json"
UPDATE = "UPDATE_GOLDEN=1 python -m pytest tests/unit/operator/test_plan.py"

FULL_JOB = job(
    model={
        "uri": "pvc://models/minilm",
        "tokenizer": {"uri": "pvc://models/tokenizer"},
        "freeze": {"embeddings": True},
    },
    dataset={
        "train": {"uri": "configMap://reviews/train.jsonl"},
        "validation": {"uri": "pvc://data/validation.csv"},
        "test": {"uri": "pvc://data/test.csv"},
    },
    resources={
        "gpusPerNode": 1,
        "requests": {"cpu": "4"},
        "limits": {"memory": "16Gi"},
        "sharedMemory": "1Gi",
    },
    scheduling={
        "nodeSelector": {"gpu": "a100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "batch",
        "imagePullSecrets": ["team"],
    },
    training={"epochs": 2, "checkpoint": {"gracePeriodSeconds": 300}},
    output={"uri": "pvc://models/movie-sentiment"},
    env=[{"name": "NCCL_DEBUG", "value": "WARN"}],
)
SCRIPT = "registry.example/script:1"
FULL_SETTINGS = settings(
    script_image=SCRIPT,
    requests={"cpu": "1", "memory": "2Gi"},
    node_selector={"pool": "training"},
    image_pull_secrets=["platform"],
    runtime_class="nvidia",
    pod_labels={"team": "ml"},
    progress_url="https://operator.finetune:8443",
)
SCRIPT_JOB = script_job(
    model={"uri": "pvc://models/minilm"},
    dataset={"train": {"uri": "pvc://data/train.jsonl"}},
    env=[{"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "api-key"}}}],
)
HUB_JOB = job(
    model={
        "uri": "hf://org/base@main",
        "tokenizer": {"uri": "hf://org/tokenizer"},
        "credentials": {"secretName": "hub"},
    },
    dataset={
        "train": {"uri": "hf://datasets/org/reviews@v1/data/train.csv"},
        "test": {"uri": "pvc://data/test.csv"},
    },
)
MIRROR = settings(hub_endpoint="https://hub.example")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def of(written: dict[str, Any], attempt: int = 1, given: OperatorSettings | None = None) -> Plan:
    return planned(written, attempt, given)


CASES = {
    "minimal-attempt": of(job()),
    "full-attempt": of(FULL_JOB, 3, FULL_SETTINGS),
    "hub-attempt": of(HUB_JOB, 1, MIRROR),
    "script-attempt": of(SCRIPT_JOB, 1, FULL_SETTINGS),
}
PLANS = pytest.mark.parametrize("made", CASES.values(), ids=CASES.keys())


def pod_of(made: Plan) -> dict[str, Any]:
    spec: dict[str, Any] = made.job["spec"]["template"]["spec"]
    return spec


def container_of(made: Plan) -> dict[str, Any]:
    container: dict[str, Any] = pod_of(made)["containers"][0]
    return container


@pytest.mark.parametrize(("name", "made"), CASES.items())
def test_the_objects_of_an_attempt_are_those_of_the_golden_file(name: str, made: Plan) -> None:
    objects = [one for one in (made.claim, made.config_map, made.job) if one]
    text = yaml.safe_dump_all(readable(objects), sort_keys=False, width=110, allow_unicode=True)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"if this is meant: {UPDATE}"


def readable(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the RunConfig as YAML rather than as one long text."""
    plain = json.loads(json.dumps(objects))
    for one in plain:
        annotations = one.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {})
        if RUN_JSON in annotations:
            annotations[RUN_JSON] = json.loads(annotations[RUN_JSON])
    return list(plain)


@PLANS
def test_a_pod_is_restricted(made: Plan) -> None:
    pod, container = pod_of(made), container_of(made)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"persistentVolumeClaim", "configMap", "downwardAPI", "emptyDir", "projected", "secret"}


@PLANS
def test_every_volume_is_mounted_once_and_only_output_and_scratch_are_writable(made: Plan) -> None:
    volumes = [volume["name"] for volume in pod_of(made)["volumes"]]
    mounts = container_of(made)["volumeMounts"]
    assert sorted(volumes) == sorted(mount["name"] for mount in mounts)
    assert len(volumes) == len(set(volumes))
    assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
    writable = {mount["name"] for mount in mounts if not mount["readOnly"]}
    assert writable == {"output", "tmp", "home", "shared-memory"}


@PLANS
def test_the_operator_alone_decides_about_another_attempt(made: Plan) -> None:
    spec = made.job["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert pod_of(made)["restartPolicy"] == "Never"
    assert "suspend" not in spec


def test_a_claim_that_is_input_and_output_is_mounted_twice_once_for_writing() -> None:
    made = of(job(output={"uri": "pvc://demo/out/model"}))
    volumes = {volume["name"]: volume for volume in pod_of(made)["volumes"]}
    claims = {name: v["persistentVolumeClaim"] for name, v in volumes.items() if "persistentVolumeClaim" in v}
    assert claims == {"input-0": {"claimName": "demo"}, "output": {"claimName": "demo"}}
    mounts = {mount["name"]: mount for mount in container_of(made)["volumeMounts"]}
    assert (mounts["input-0"]["mountPath"], mounts["input-0"]["readOnly"]) == ("/mnt/claims/demo", True)
    assert (mounts["output"]["mountPath"], mounts["output"]["readOnly"]) == ("/mnt/output", False)
    assert made.claim is None


def test_every_kind_of_uri_is_mounted_or_downloaded() -> None:
    kinds = (uris.ModelUri, uris.DataUri, uris.ClaimUri)
    schemes = {scheme for kind in kinds for scheme in re.findall(r"\^(\w+)://", str(kind.__metadata__))}  # type: ignore[attr-defined]
    assert {"pvc", "configMap", "hf"} <= schemes
    for scheme in sorted(schemes):
        uri = f"{scheme}://demo/rows.jsonl"
        if uris.is_hub(uri):
            continue  # the trainer downloads it
        of = parse(stored(job(dataset={"train": {"uri": uri}})))
        mounted = [f"{mount.path}/" for mount in mounts_of(of, "pvc://out/model")]
        assert path_of(uri).startswith(tuple(mounted))


def test_an_input_from_a_config_map_is_found_under_its_key() -> None:
    made = of(FULL_JOB)
    assert any(volume.get("configMap") == {"name": "reviews"} for volume in pod_of(made)["volumes"])
    assert path_of("configMap://reviews/train.jsonl") == "/mnt/configmaps/reviews/train.jsonl"


@pytest.mark.parametrize("attempt", [1, 99, 100_000])
def test_the_longest_name_fits_everywhere(attempt: int) -> None:
    longest = "a" * 40
    made = of(job(longest), attempt)
    assert made.claim
    for one in (made.claim, made.job):
        labels = one["metadata"]["labels"]
        assert all(len(value) <= 63 for value in labels.values())
        assert len(one["metadata"]["name"]) + len("-12345") <= 63, "the pod's name is its host name"
        assert one["metadata"]["name"].startswith(longest)


@pytest.mark.parametrize("name", ["minimal-attempt", "full-attempt"])
def test_the_run_config_parses_and_its_paths_are_mounted(name: str) -> None:
    made = CASES[name]
    config = RunConfig.from_json(run_json(made))
    mounts = [mount["mountPath"] for mount in container_of(made)["volumeMounts"]]
    read = [config.model.path, config.dataset.train.path]
    read += [one.path for one in (config.dataset.validation, config.dataset.test) if one]
    written = [config.output.model_dir, config.output.staging_dir, config.output.checkpoint_dir]
    for path in read:
        assert any(path.startswith(f"{mount}/") for mount in mounts if mount != "/mnt/output")
    assert all(path.startswith("/mnt/output/") for path in written)
    assert config.job.attempt == (1 if name == "minimal-attempt" else 3)


def test_two_jobs_of_one_name_share_neither_claim_nor_checkpoints() -> None:
    first, second = (
        parse(stored(job(), uid=uid)) for uid in ("11111111-0000-0000-0000-0", "22222222-0000-0000-0000-0")
    )
    assert names_of(first).isdisjoint(names_of(second))


def names_of(one: FineTuneJob) -> set[str]:
    made = plan(one, resolve(one, settings()), 1, settings(), "")
    assert made.claim
    config = run_json(made)
    return {made.claim["metadata"]["name"], made.job["metadata"]["name"], config["output"]["checkpointDir"]}


@pytest.mark.parametrize(
    ("written", "script_image", "image"),
    [
        (script_job(), SCRIPT, SCRIPT),
        (script_job(), None, TRAINER),
        (script_job(image="registry.example/mine:2"), SCRIPT, "registry.example/mine:2"),
        (job(), SCRIPT, TRAINER),
        (job(image=SCRIPT), SCRIPT, SCRIPT),
    ],
    ids=[
        "a script",
        "a script without a script image",
        "a script in its own image",
        "a trainer",
        "a trainer there",
    ],
)
def test_a_command_runs_in_the_script_image_unless_the_job_names_one(
    written: dict[str, Any], script_image: str | None, image: str
) -> None:
    assert container_of(of(written, given=settings(script_image=script_image)))["image"] == image


def test_a_script_finds_its_files_by_variables_and_posts_progress_as_transformers_does() -> None:
    variables = variables_of(CASES["script-attempt"])
    assert variables["FINETUNE_MODEL_DIR"] == "/mnt/claims/models/minilm"
    assert variables["FINETUNE_TRAIN_FILE"] == "/mnt/claims/data/train.jsonl"
    assert variables["KUBEFLOW_TRAINER_SERVER_URL"] == "https://operator.finetune:8443/v1/progress"
    assert "run.json" not in files(CASES["script-attempt"])


@pytest.mark.parametrize(
    ("gpus", "own", "says"),
    [
        (0, [], threads.WAITING),
        (1, [], {}),
        (0, [{"name": "OMP_WAIT_POLICY", "value": "ACTIVE"}], {"OMP_WAIT_POLICY": "ACTIVE"}),
        (0, [{"name": "GOMP_SPINCOUNT", "value": "7"}], {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_of_a_script_on_cpus_wait_as_the_trainer_s_do_unless_the_user_says_how(
    gpus: int, own: list[dict[str, str]], says: dict[str, str]
) -> None:
    made = of(script_job(resources={"gpusPerNode": gpus}, env=own))
    names = [one["name"] for one in container_of(made)["env"]]
    assert len(names) == len(set(names))
    assert {name: value for name, value in variables_of(made).items() if name in threads.WAITING} == says


def test_the_trainer_itself_decides_how_its_threads_wait() -> None:
    assert not threads.WAITING.keys() & variables_of(of(job(resources={"gpusPerNode": 0}))).keys()


def variables_of(made: Plan) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container_of(made)["env"] if "value" in one}


def test_only_a_job_that_names_the_hub_may_ask_it() -> None:
    assert variables_of(of(job()))["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in variables_of(of(HUB_JOB))
    assert variables_of(of(HUB_JOB, given=settings(hub_offline=True)))["HF_HUB_OFFLINE"] == "1"
    assert variables_of(of(HUB_JOB, given=MIRROR))["HF_ENDPOINT"] == "https://hub.example"


def test_the_token_is_a_file_from_the_kubelet_and_named_by_its_path_alone() -> None:
    made = of(HUB_JOB)
    (volume,) = [volume for volume in pod_of(made)["volumes"] if "secret" in volume]
    items = [{"key": "token", "path": "token"}]
    assert volume["secret"] == {"secretName": "hub", "items": items, "defaultMode": 0o440}
    (mount,) = [one for one in container_of(made)["volumeMounts"] if one["name"] == volume["name"]]
    assert mount["readOnly"] is True
    assert variables_of(made)["HF_TOKEN_PATH"] == f"{mount['mountPath']}/token"
    assert "secret" not in files(made)["run.json"].lower()


def test_what_the_hub_has_is_neither_mounted_nor_given_a_path() -> None:
    made = of(HUB_JOB)
    claims = [
        one["persistentVolumeClaim"]["claimName"]
        for one in pod_of(made)["volumes"]
        if "persistentVolumeClaim" in one
    ]
    assert claims == ["data", "movie-sentiment-7d2c1e8a"]
    config = RunConfig.from_json(run_json(made))
    assert (config.model.path, config.model.tokenizer_path, config.dataset.train.path) == ("", None, "")
    assert config.output.hub_dir == "/mnt/output/.finetune/7d2c1e8a-3f60-4b0e-9a55-0c1d2e3f4a5b/hub"


def test_a_retry_trains_from_the_commits_that_the_attempt_before_reported() -> None:
    resolved = {part: {"uri": "hf://…", "revision": COMMIT} for part in ("model", "tokenizer", "train")}
    made = of(HUB_JOB | {"status": {"resolved": resolved}}, 2)
    config = RunConfig.from_json(run_json(made))
    assert (config.model.uri, config.model.revision) == ("hf://org/base@main", COMMIT)
    assert (config.model.tokenizer_uri, config.model.tokenizer_revision) == ("hf://org/tokenizer", COMMIT)
    assert (config.dataset.train.revision, config.dataset.test and config.dataset.test.revision) == (
        COMMIT,
        None,
    )


def test_a_script_is_told_the_uris_of_what_it_downloads_itself() -> None:
    hub = {"model": HUB_JOB["spec"]["model"], "dataset": HUB_JOB["spec"]["dataset"]}
    variables = variables_of(of(script_job(**hub)))
    assert variables["FINETUNE_MODEL_URI"] == "hf://org/base@main"
    assert variables["FINETUNE_TRAIN_URI"] == "hf://datasets/org/reviews@v1/data/train.csv"
    assert variables["FINETUNE_TEST_FILE"] == "/mnt/claims/data/test.csv"
    assert "FINETUNE_MODEL_DIR" not in variables


def test_no_token_is_mounted_where_progress_is_not_reported() -> None:
    assert all("projected" not in volume for volume in pod_of(of(job()))["volumes"])


def test_a_label_of_the_administrator_does_not_hide_ours() -> None:
    made = of(job(), given=settings(pod_labels={"finetune.dev/job-uid": "x", "team": "ml"}))
    labels = made.job["spec"]["template"]["metadata"]["labels"]
    assert labels["finetune.dev/job-uid"] != "x"
    assert labels["team"] == "ml"


def test_a_job_adds_to_the_administrator_s_node_selector_and_changes_none_of_it() -> None:
    asked = {"nodeSelector": {"pool": "production", "gpu": "a100"}}
    made = of(job(scheduling=asked), given=settings(node_selector={"pool": "training"}))
    assert pod_of(made)["nodeSelector"] == {"pool": "training", "gpu": "a100"}


def test_an_attempt_prefers_nodes_on_which_no_earlier_one_missed_its_gpus() -> None:
    attempts = [
        {"number": 1, "reason": "GPUsNotSeen", "node": "n2"},
        {"number": 2, "reason": "StorageFailed", "node": "n3"},
        {"number": 3, "reason": "GPUsNotSeen", "node": "n1"},
    ]
    affinity = pod_of(of(job() | {"status": {"attempts": attempts}}, 4))["affinity"]["nodeAffinity"]
    (term,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    unlike = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in ("n1", "n2")]
    assert term["preference"] == {"matchFields": unlike}
    assert "affinity" not in pod_of(of(job()))


def test_pods_carry_the_administrators_annotations() -> None:
    annotations = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    metadata = of(job(), given=settings(pod_annotations=annotations)).job["spec"]["template"]["metadata"]
    assert annotations.items() <= metadata["annotations"].items()
    assert not annotations.keys() & of(job()).job["spec"]["template"]["metadata"]["annotations"].keys()


def test_where_the_platform_chooses_ids_the_pod_names_none() -> None:
    security = pod_of(of(job(), given=settings(platform_ids=True)))["securityContext"]
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & security.keys()
    assert security["runAsNonRoot"] is True


@pytest.mark.parametrize("text", ["; rm -rf /", "$(HOME)", "$HOME `id`", "--set job.name=x", "a\nb", "'\"\\"])
def test_a_text_of_a_job_reaches_the_trainer_verbatim_and_no_command_line(text: str) -> None:
    made = of(job(objective={"classification": {"labels": [text, "b"]}}))
    config = RunConfig.from_json(run_json(made))
    assert config.objective.classification
    assert config.objective.classification.labels == [text, "b"]
    assert container_of(made)["args"] == [RUN_CONFIG_PATH]
    assert json.dumps(text) not in json.dumps(made.job["spec"]["template"]["spec"])
