"""A search on a real node: trials train side by side, a bad one is pruned, the best one's model is recorded."""

from pathlib import Path

import pytest

from e2e.jobs import Body, Jobs, condition, tiny

NAME = "tune"


@pytest.fixture(scope="module")
def finished(jobs: Jobs) -> Body:
    """The status of a search over three rates. Which one wins is noise on so few rows."""
    training = {
        "epochs": 9,
        "batchSize": 8,
        "evaluation": {"bestMetric": "loss"},
        "optimizer": {"learningRate": 1e-3},
    }
    search = {
        "algorithm": "Grid",
        "parameters": [{"path": "training.optimizer.learningRate", "choice": [1e-4, 1e-3, 3e-3]}],
        "parallelism": 3,
        "pruner": {"asha": {"reductionFactor": 2}},
    }
    resources = {"gpusPerNode": 0}
    jobs.apply(NAME, tiny(resources=resources) | {"training": training, "search": search})
    return jobs.wait_phase(NAME, "Succeeded", seconds=280)


def trials(jobs: Jobs) -> list[Body]:
    """The trials' FineTuneJobs."""
    uid = jobs.platform.get("ftj", NAME, "-n", jobs.namespace)["metadata"]["uid"]
    selector = f"finetune.dev/parent-uid={uid}"
    found: list[Body] = jobs.platform.get("ftj", "-n", jobs.namespace, "-l", selector)["items"]
    return found


def test_the_best_trials_model_is_recorded_with_its_values(jobs: Jobs, finished: Body) -> None:
    counts = finished["trials"]
    assert counts["total"] == counts["succeeded"] + counts["pruned"] == 3
    best = next(one for one in trials(jobs) if one["metadata"]["name"] == counts["best"]["name"])
    assert finished["model"]["metrics"] == best["status"]["model"]["metrics"]
    assert not finished["model"]["uri"].startswith(best["status"]["model"]["uri"].rpartition("/")[0])
    assert counts["best"]["value"] == pytest.approx(finished["model"]["metrics"]["eval_loss"])
    whole = [one["value"] for one in counts["latest"] if one["state"] == "Succeeded"]
    assert counts["best"]["value"] == min(whole)
    assert counts["best"]["name"] in condition(finished, "Finished")["message"]


def test_every_trial_is_evaluated_on_the_same_number_of_rows_of_the_same_file(
    jobs: Jobs, finished: Body
) -> None:
    held_out = {str(one["status"]["resolved"]["validation"]) for one in trials(jobs)}
    assert finished["phase"] == "Succeeded"
    assert len(held_out) == 1


def test_the_model_folder_is_whole(jobs: Jobs, finished: Body, tmp_path: Path) -> None:
    claim, _, path = finished["model"]["uri"].removeprefix("pvc://").partition("/")
    jobs.platform.copy_out(jobs.namespace, claim, path, tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "SHA256SUMS").exists()


def test_the_report_shows_the_search(jobs: Jobs, finished: Body, tmp_path: Path) -> None:
    claim, _, path = finished["model"]["uri"].removeprefix("pvc://").partition("/")
    jobs.platform.copy_out(jobs.namespace, claim, f"{path}-trials", tmp_path)
    report = (tmp_path / "report.html").read_text()
    assert all(one["name"] in report for one in finished["trials"]["latest"])
    kept = finished["trials"]["best"]["name"].rpartition("-")[2]
    assert (tmp_path / kept / "model.safetensors").exists(), "keepModels: All"
