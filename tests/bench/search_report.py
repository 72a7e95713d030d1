"""Runs a small search with real training, without Kubernetes, and writes what its summary leaves behind.

    PYTHONPATH=tests python tests/bench/search_report.py FOLDER [TRIALS]

The operator's sampler proposes the values and its rules of successive halving prune, as in a cluster. A trial is
trained to its end, and a pruned one is shortened afterwards. Trials are a tiny model that learns the ratings of made-up
reviews: two seconds each.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parents[2] / folder)
    for folder in ("tests", "api", "core", "operator", "trainer-image")
]

from finetune_api.finetunejob import FineTuneJobSpec  # noqa: E402
from finetune_api.overrides import overridden  # noqa: E402
from finetune_api.run import RunConfig, RunReport  # noqa: E402
from finetune_api.status import TrialState  # noqa: E402
from finetune_core.search.asha import why_pruned  # noqa: E402
from finetune_core.search.importance import importances  # noqa: E402
from finetune_core.search.samplers import propose  # noqa: E402
from finetune_core.search.trials import Evaluation, Trial, best_of  # noqa: E402
from finetune_trainer.__main__ import main as train  # noqa: E402
from unit.trainer.tiny import Job, build_model, job, reviews  # noqa: E402

METRIC, EPOCHS = "eval_rmse", 9
REGRESSION: dict[str, Any] = {
    "objective": {"regression": {}},
    "dataset": {"columns": {"label": "rating"}},
}
SPEC = FineTuneJobSpec.from_json(
    {
        "model": {"uri": "pvc://demo/model"},
        "dataset": {"train": {"uri": "pvc://demo/train.jsonl"}},
        "objective": {"regression": {}},
        "training": {"epochs": EPOCHS, "batchSize": 8},
        "search": {
            "parameters": [
                {"path": "training.optimizer.learningRate", "logUniform": {"min": 1e-4, "max": 3e-2}},
                {"path": "training.batchSize", "choice": [8, 16, 32]},
                {"path": "training.schedule.name", "choice": ["Linear", "Constant"]},
                {"path": "model.dropout", "uniform": {"min": 0.0, "max": 0.5}},
            ],
            "pruner": {"asha": {}},
        },
    }
)


def run_trial(base: Job, number: int, before: list[Trial]) -> Trial:
    """Train one trial, and shorten it to where it would have been pruned."""
    values = propose(SPEC, number, before, METRIC)
    assert values is not None and SPEC.search and SPEC.search.pruner and SPEC.search.pruner.asha
    name = f"tune-1c9d2f7a-t{number:03}"
    made = base.changed(
        {
            "job": {"name": name, "uid": name},
            "training": {
                "epochs": EPOCHS,
                "microBatchSize": None,
                "optimizer": None,
                "evaluation": {"bestMetric": METRIC},
            },
            "output": {"modelDir": str(base.folder / "trials" / f"t{number:03}")},
        }
    )
    config = RunConfig.from_json(overridden(made.config, values, RunConfig))
    path = base.folder / "run.json"
    path.write_text(json.dumps(config.to_json()))
    assert train([str(path)]) == 0
    epochs = RunReport.model_validate_json((base.folder / "termination").read_text()).epochs
    curve = tuple(Evaluation(e.epoch, e.metrics["rmse"]) for e in epochs)
    asha, others = SPEC.search.pruner.asha, [trial.evaluations for trial in before]
    cut = next((n for n in range(1, len(curve)) if why_pruned(asha, METRIC, curve[:n], others)), len(curve))
    return Trial(
        number,
        name,
        TrialState.SUCCEEDED if cut == len(curve) else TrialState.PRUNED,
        values,
        value=min(one.value for one in curve[:cut]),
        seconds=round(sum(e.seconds or 0.0 for e in epochs[:cut])),
        evaluations=curve[:cut],
    )


def summary_of(folder: Path, trials: list[Trial]) -> dict[str, Any]:
    """The SummaryConfig that the operator would write."""
    best = best_of(trials, METRIC)
    assert best is not None and SPEC.search
    search = {
        "algorithm": SPEC.search.algorithm,
        "metric": METRIC,
        "logarithmic": [each.path for each in SPEC.search.parameters if each.log_uniform],
        "rungs": [1, 3, 9],
        "trials": [
            {
                "number": trial.number,
                "name": trial.name,
                "state": trial.state,
                "parameters": trial.values,
                "value": trial.value,
                "seconds": trial.seconds,
                "evaluations": [[one.epoch, one.value] for one in trial.evaluations],
            }
            for trial in trials
        ],
        "best": best.number,
        "importances": importances(SPEC.search.parameters, trials, METRIC),
        "end": f"all {len(trials)} trials have ended",
        "deviceSeconds": sum(trial.seconds for trial in trials),
        "reportDir": str(folder / "report"),
    }
    return {
        "kind": "SummaryConfig",
        "job": {"name": "tune", "uid": "tune"},
        "search": search,
        "model": {"path": str(folder / "trials" / f"t{best.number:03}")},
        "output": {"modelDir": str(folder / "model"), "stagingDir": str(folder / "staging")},
    }


def main() -> None:
    """Search, then summarize."""
    folder, count = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 24
    base = job(folder, build_model(folder / "base"), reviews(320), **REGRESSION)
    trials: list[Trial] = []
    for number in range(1, count + 1):
        trials.append(run_trial(base, number, trials))
    path = folder / "summary.json"
    path.write_text(json.dumps(summary_of(folder, trials)))
    assert train([str(path)]) == 0


if __name__ == "__main__":
    main()
