"""The regression example: a number to predict, another schedule, early stopping, the best weights recorded."""

from pathlib import Path

import pytest

from e2e.jobs import Jobs

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "regression.yaml"


def test_a_regression_learns_the_ratings_of_reviews_it_has_never_seen(jobs: Jobs) -> None:
    jobs.platform.kubectl("apply", "-n", jobs.namespace, "-f", str(EXAMPLE))
    status = jobs.wait_phase("movie-rating", "Succeeded")
    metrics = status["model"]["metrics"]
    assert metrics["test_pearson"] > 0.4
    assert status["bestCheckpoint"]["metric"] == "pearson"
    best = max(epoch["metrics"]["pearson"] for epoch in status["epochs"])
    assert status["bestCheckpoint"]["value"] == pytest.approx(best, abs=1e-5)
    assert metrics["eval_pearson"] == pytest.approx(best, abs=1e-5)
