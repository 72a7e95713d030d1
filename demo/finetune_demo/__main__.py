"""`make demo`: starts a cluster and the operator, runs one FineTuneJob, and shows the result."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune_cli.following import follow_job
from finetune_cluster.choice import chosen_cluster
from finetune_cluster.errors import ClusterError
from finetune_demo.floor import floor
from finetune_demo.materials import prepare
from finetune_demo.platform import Platform
from finetune_sdk import Client
from finetune_sdk.errors import WaitTimeoutError

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "examples" / "quickstart.yaml"
IMAGES = ("operator", "trainer")
NAMESPACE, CLAIM, JOB = "default", "demo", "movie-sentiment"
PATIENCE = "--timeout=180s"
TIME_LIMIT = 1200.0
"""Timeout of the job in seconds; it takes about one minute on two cores."""
MARGIN = 0.02
"""Minimum margin over the baseline for the demo to succeed."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Print what starts, and how long it took."""
    console.print(f"[bold]▸ {text}[/]")
    start = time.monotonic()
    yield
    console.print(f"  [dim]done in {time.monotonic() - start:.0f} s[/]")


def main() -> int:
    """Run the demo: 0 if the model was trained and beats the baseline."""
    start = time.monotonic()
    try:
        return _run(start)
    except ClusterError as error:
        console.print(f"[red]the demo failed: {escape(str(error))}")
        return 1


def _run(start: float) -> int:
    cluster = chosen_cluster()
    with stage(f"Cluster: {cluster.describe()}"):
        cluster.up(IMAGES)
    with stage("Images of operator and trainer"):
        platform = Platform(cluster.kubeconfig, cluster.images(*IMAGES))
    os.environ["KUBECONFIG"] = str(platform.kubeconfig)
    with stage("Install the operator with Helm"):
        platform.install_operator()
    with tempfile.TemporaryDirectory() as folder:
        with stage("Copy model and reviews to the claim “demo”"):
            materials = Path(folder)
            prepare(materials)
            _remove_earlier_run(platform)
            platform.make_claim(NAMESPACE, CLAIM)
            platform.copy_in(NAMESPACE, CLAIM, materials)
        console.print(f"[bold]▸ kubectl apply -f {QUICKSTART.relative_to(ROOT)}[/]")
        platform.kubectl("apply", "-f", str(QUICKSTART))
        if not _succeeds():
            return _explain_failure(platform)
        return _show_result(platform, materials / "data", start)


def _succeeds() -> bool:
    """Follow the job to its end."""
    try:
        return follow_job(Client(NAMESPACE).get(JOB), console, TIME_LIMIT) == 0
    except WaitTimeoutError as error:
        console.print(f"[red]{escape(str(error))}")
        return False


def _remove_earlier_run(platform: Platform) -> None:
    platform.kubectl("delete", "ftj", JOB, "-n", NAMESPACE, "--ignore-not-found", "--wait", PATIENCE)
    platform.kubectl(
        "delete", "pvc", "-n", NAMESPACE, "-l", f"finetune.dev/job-name={JOB}", "--wait", PATIENCE
    )


def _explain_failure(platform: Platform) -> int:
    console.print(platform.kubectl("get", "ftj", JOB, "-n", NAMESPACE, "-o", "wide"), markup=False)
    console.print(f"[red]the job failed or timed out; see kubectl describe ftj {JOB}")
    return 1


def _show_result(platform: Platform, data: Path, start: float) -> int:
    status = platform.get("ftj", JOB, "-n", NAMESPACE)["status"]
    model = status["model"]
    claim, _, path = model["uri"].removeprefix("pvc://").partition("/")
    target = ROOT / "out" / JOB
    with stage("Copy the model from its volume"):
        platform.copy_out(NAMESPACE, claim, path, target)
    console.print("\n" + platform.kubectl("get", "ftj", "-n", NAMESPACE).rstrip(), "\n")
    accuracy = model["metrics"]["test_accuracy"]
    baseline = floor(_rows(data / "movie-reviews.jsonl"), _rows(data / "movie-reviews-test.jsonl"))
    console.print(_table(status, accuracy, baseline, target))
    better = accuracy >= baseline + MARGIN
    verdict = "above" if better else "[red]NOT enough above[/]"
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    console.print(
        f"The model is {accuracy - baseline:+.3f} {verdict} the baseline. The demo took {minutes} min {seconds} s."
    )
    console.print(f"To inspect the cluster:  export KUBECONFIG={platform.kubeconfig}")
    console.print("To remove everything:  make demo-clean")
    return 0 if better else 1


def _rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _table(status: dict[str, Any], accuracy: float, baseline: float, folder: Path) -> Table:
    model, test, shown = status["model"], status["resolved"]["test"], folder.relative_to(ROOT)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("accuracy on held-out reviews", f"[bold]{accuracy:.3f}[/]  ({test['rows']} sentences)")
    table.add_row("TF-IDF + logistic regression", f"{baseline:.3f}  (the same sentences)")
    table.add_row("model", model["uri"])
    table.add_row("digest", model["digest"])
    table.add_row("trained on", status["effective"].get("device"))
    table.add_row("local copy", f"{shown}/")
    table.add_row("model card", f"{shown}/README.md")
    table.add_row("learning curve", f"{shown}/learning-curve.png")
    return table


if __name__ == "__main__":
    sys.exit(main())
