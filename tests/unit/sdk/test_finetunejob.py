"""A job that is built in Python is the job that its YAML is, and what is wrong with it has its place."""

from pathlib import Path

import pytest

from builders import spec
from finetune_api.training import TrainingSpec
from finetune_sdk import FineTuneJob
from finetune_sdk.errors import InvalidJobError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_yaml_is_read_and_written_without_a_change(example: Path, tmp_path: Path) -> None:
    job = FineTuneJob.from_yaml(example)
    copy = tmp_path / "copy.yaml"
    copy.write_text(job.to_yaml())
    assert FineTuneJob.from_yaml(copy).to_body() == job.to_body()


def test_parts_may_be_typed_and_only_what_was_set_is_written() -> None:
    job = FineTuneJob(
        "typed", **spec(training=TrainingSpec(epochs=2, batch_size=16)), active_deadline_seconds=60
    )
    written = job.to_body()["spec"]
    assert written["training"] == {"epochs": 2, "batchSize": 16}
    assert written["activeDeadlineSeconds"] == 60
    assert job.spec.training
    assert job.spec.training.optimizer.learning_rate == 5e-5


def test_every_fault_is_named() -> None:
    with pytest.raises(InvalidJobError) as caught:
        FineTuneJob("Bad_Name", **spec(training={"epoch": 2, "batchSize": 0}))
    name, *fields = sorted(caught.value.faults)
    assert name.startswith("metadata.name must have")
    assert [fault.partition(":")[0] for fault in fields] == ["spec.training.batchSize", "spec.training.epoch"]


def test_a_second_name_is_refused() -> None:
    with pytest.raises(InvalidJobError, match=r"metadata.name: b contradicts the name a; remove it"):
        FineTuneJob("a", metadata={"name": "b"}, **spec())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "while parsing"),
        ("kind: Pod", "no FineTuneJob found"),
        ("---\nkind: FineTuneJob\n" * 2, "2 FineTuneJobs"),
    ],
)
def test_a_file_without_one_job_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(InvalidJobError, match=said):
        FineTuneJob.from_yaml(file)
