"""Values for tests, which show only what a test is about: `job(training={"epochs": 1})`.

Every builder starts from the smallest valid value. A keyword replaces a top-level field of the spec; None removes it.
"""

from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.run import RunConfig

Json = dict[str, Any]

MODEL = "pvc://demo/models/minilm"
REVIEWS = "pvc://demo/data/movie-reviews.jsonl"
UID = "7d2c1e8a-3f60-4b0e-9a55-0c1d2e3f4a5b"
LARGE_OBJECTIVE: Json = {"classification": {"labels": [f"{number:0128}" for number in range(150)]}}
"""An objective whose run.json is too large for annotations."""


def spec(**fields: Any) -> Json:
    """The smallest valid spec of a training job, with `fields`."""
    smallest: Json = {
        "model": {"uri": MODEL},
        "dataset": {"train": {"uri": REVIEWS}},
        "objective": {"classification": {}},
    }
    return {name: value for name, value in (smallest | fields).items() if value is not None}


def script_spec(**fields: Any) -> Json:
    """The smallest valid spec of a job that runs a script of the user's own, with `fields`."""
    return {"command": ["python", "/scripts/train.py"]} | fields


def job(name: str = "movie-sentiment", **fields: Any) -> Json:
    """A FineTuneJob as a user writes it."""
    return manifest(name, spec(**fields))


def script_job(name: str = "my-script", **fields: Any) -> Json:
    """A FineTuneJob that runs a script of the user's own."""
    return manifest(name, script_spec(**fields))


def manifest(name: str, of: Json) -> Json:
    """A FineTuneJob with exactly this spec."""
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": of}


def stored(written: Json, *, namespace: str = "default", uid: str = UID, generation: int = 1) -> Json:
    """The job with the metadata that an API server adds."""
    added = {
        "namespace": namespace,
        "uid": uid,
        "generation": generation,
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return written | {"metadata": added | written["metadata"]}


def run_config(folder: str = "/finetune", **fields: Any) -> RunConfig:
    """The RunConfig of the smallest job's first attempt, with its files under `folder`."""
    smallest: Json = {
        "job": {"name": "movie-sentiment", "namespace": "default", "uid": UID},
        "model": {"path": f"{folder}/models/minilm"},
        "dataset": {"train": {"path": f"{folder}/data/movie-reviews.jsonl"}},
        "objective": {"classification": {}},
        "output": {
            "modelDir": f"{folder}/output/model",
            "stagingDir": f"{folder}/output/.finetune/{UID}/model",
            "checkpointDir": f"{folder}/output/.finetune/{UID}/checkpoints",
        },
    }
    return RunConfig.from_json(smallest | fields)
