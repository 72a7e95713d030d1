"""A real Prometheus scrapes real runs: every metric, rule, alert and dashboard query returns data."""

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.jobs import SLOW, Body, Jobs, tiny
from finetune_api.exposition import Kind, Metric
from finetune_demo.monitoring import Prometheus, prometheus
from finetune_demo.platform import SYSTEM
from finetune_operator.metrics.definitions import UNSERVED, definitions
from finetune_trainer.reporting import metrics as trainer
from ports import free_port

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DCGM = ROOT / "tests" / "chart" / "dcgm.prom"
ITS_POD, ITS_NAMESPACE = "movie-sentiment-7d2c1e8a-a1-0-x7k2p", "team-a"
RULES_FILE = ROOT / "charts" / "finetune-operator" / "files" / "rules.yaml"
RULES = [rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]]
INTERVAL = "2s"
STEP = 3.0
"""Seconds between the times at which an expression is evaluated."""
METRICS = [one for one in [*definitions(), *trainer.definitions()] if one != UNSERVED]
"""Without the one for a namespace that may not be listed, which takes an operator without rights."""
DASHBOARDS = sorted((ROOT / "charts" / "finetune-operator" / "dashboards").glob("*.json"))
NOT_IN_THIS_RUN = {
    "finetune-operator: Not permitted",
    "finetune-operator: Refused requests",
}
"""Panels that are empty where everything is allowed."""


class DcgmExporter:
    """Two exporters that answer as dcgm-exporter does, for the pod that each was given."""

    def __init__(self, namespace: str) -> None:
        self.pods: dict[str, str] = {}
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pod = exporter.pods.get(self.path.strip("/"), "")
                page = DCGM.read_text().replace(ITS_POD, pod).replace(ITS_NAMESPACE, namespace)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def job(self, path: str, *, honor_labels: bool) -> Body:
        """The scrape job of one of them; without honorLabels Prometheus renames the labels that are taken."""
        target = {"namespace": "gpu-operator", "pod": f"dcgm-exporter-{path}", "container": "exporter"}
        address = f"127.0.0.1:{self.server.server_port}"
        return {
            "job_name": f"dcgm-{path}",
            "metrics_path": f"/{path}",
            "honor_labels": honor_labels,
            "static_configs": [{"targets": [address], "labels": target}],
        }


@dataclass
class Run:
    """What was recorded of the jobs, from `begin` on."""

    server: Prometheus
    jobs: Jobs
    begin: float = field(default_factory=time.time)

    def seen(self, expression: str) -> list[Body]:
        """The series that an expression had at any time of the run, those since the last step included."""
        end = time.time() + STEP
        found: list[Body] = self.server.api(
            "query_range", query=expression, start=self.begin, end=end, step=STEP
        )["result"]
        return found

    def values(self, expression: str) -> list[float]:
        """All values of its series, in the order of time."""
        return [float(value) for one in self.seen(expression) for _, value in one["values"]]

    def wait(self, expression: str, seconds: float = 90) -> list[Body]:
        """Wait until an expression has a series now."""
        deadline = time.monotonic() + seconds
        while not (found := self.server.query(expression)):
            assert time.monotonic() < deadline, f"{expression} has no series"
            time.sleep(1)
        return found


@pytest.fixture(scope="module")
def run(jobs: Jobs) -> Iterator[Run]:
    """Jobs of every kind: two train long enough to be scraped, then others fail, wait, rest, search or combine."""
    dcgm = DcgmExporter(jobs.namespace)
    more = (dcgm.job("same", honor_labels=True), dcgm.job("renamed", honor_labels=False))
    with prometheus(jobs.platform.kubeconfig, free_port(), INTERVAL, more) as server:
        found = Run(server, jobs)
        _train_and_retry(found, dcgm)
        _run_the_others(found)
        _fail_twice_on_a_node(found)
        found.wait('finetune_job_state{name="both",phase="Succeeded"}')
        yield found
    dcgm.server.shutdown()
    dcgm.server.server_close()


def _train_and_retry(run: Run, dcgm: DcgmExporter) -> None:
    """They have no end: how long a step takes depends on the machine. They are suspended instead."""
    jobs, endless = run.jobs, tiny(steps=100_000, activeDeadlineSeconds=7200)
    endless["training"] |= {"evaluation": {"every": {"steps": 20}}, "earlyStopping": {"patience": 1000}}
    for name, exporter in (("watched", "same"), ("second", "renamed")):
        jobs.apply(name, endless)
        jobs.wait(name, "evaluated", lambda status: len(status.get("epochs", [])) > 1, SLOW)
        dcgm.pods[exporter] = jobs.children("pod", name)[0]["metadata"]["name"]
    run.wait('count(namespace_name:finetune_gpu_utilization:ratio{name=~"watched|second"}) == 2')
    run.wait('rate(finetune_train_tokens_total{name="watched"}[1m]) > 0')
    pod = dcgm.pods["same"]
    jobs.platform.kubectl("delete", "pod", "-n", jobs.namespace, pod, "--force", "--grace-period=0")
    jobs.wait(
        "watched", "retried", lambda s: len(s["attempts"]) == 2 and s["attempts"][1].get("toStep"), SLOW
    )
    run.wait('finetune_train_steps_total{name="watched",attempt="2"} > 0')
    for name in ("watched", "second"):
        jobs.patch(name, '{"suspend": true}')
        jobs.wait_phase(name, "Suspended", SLOW)


def _run_the_others(run: Run) -> None:
    jobs = run.jobs
    jobs.apply("stuck", tiny(resources={"gpusPerNode": 16}))
    jobs.apply("resting", tiny(suspend=True))
    jobs.apply("queued", tiny(scheduling={"queue": "team-a"}))  # without a Kueue, so it waits
    jobs.apply("broken", tiny(data="broken.jsonl"))
    jobs.wait_phase("broken", "Failed", SLOW)
    cpu = {"resources": {"gpusPerNode": 0}}
    _search(run, cpu)
    specs = {
        "script": _script() | {"env": [{"name": "EPOCHS", "value": "1"}]},
        "both": tiny(steps=20, ensemble={"members": 2}, **cpu),
        "compared": _compared(),
    }
    for name, spec in specs.items():  # one after the other: two cores
        jobs.apply(name, spec)
        jobs.wait_phase(name, "Succeeded", SLOW)


def _search(run: Run, cpu: Body) -> None:
    """Its second trial trains until its curves are scraped, and is deleted then."""
    lengths = {"path": "training.maxSteps", "choice": [20, 100_000]}
    run.jobs.apply("tune", tiny(steps=20, search={"algorithm": "Grid", "parameters": [lengths]}, **cpu))
    for curve in ("finetune_eval_loss", "finetune_train_loss"):
        run.wait(f'{curve}{{name=~"tune-.+-t002"}}', SLOW)
    trial = run.jobs.status("tune")["trials"]["latest"][1]["name"]
    run.jobs.platform.kubectl("delete", "ftj", trial, "-n", run.jobs.namespace)
    run.jobs.wait_phase("tune", "Succeeded", SLOW)


def _fail_twice_on_a_node(run: Run) -> None:
    """Suspended as soon as it avoids its node, so that nothing runs while the tests look."""
    jobs, fault = run.jobs, "NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus"
    jobs.apply("unlucky", _script() | {"command": ["sh", "-c", f"echo '{fault}'; exit 1"]})
    run.wait("finetune_excluded_node_jobs", SLOW)
    jobs.patch("unlucky", '{"suspend": true}')
    jobs.wait_phase("unlucky", "Suspended", SLOW)
    run.wait('finetune_job_state{name="unlucky",phase="Suspended"}')


def _script() -> Body:
    spec: Body = yaml.safe_load((EXAMPLES / "own-script" / "job.yaml").read_text())["spec"]
    spec["model"]["uri"] = "pvc://demo/models/tiny"
    spec["dataset"]["train"]["uri"] = "pvc://demo/data/few.jsonl"
    return spec


def _compared() -> Body:
    """A job that preflight looks at, and that is compared with what could be had without training."""
    spec = tiny(steps=20, preflight="Required")
    spec["training"]["evaluation"]["baseline"] = True
    return spec


@pytest.mark.parametrize("one", METRICS, ids=lambda one: one.name)
def test_every_metric_was_recorded(run: Run, one: Metric) -> None:
    assert run.seen(f"{one.name}_count" if one.kind is Kind.HISTOGRAM else one.name)


def test_every_target_answers(run: Run) -> None:
    assert {float(one["value"][1]) for one in run.server.query('up{job="finetune-operator"}')} == {1.0}
    trainers = run.seen(f'max by (name, attempt) (up{{job="{SYSTEM}/finetune-operator-trainers"}})')
    names = {one["metric"]["name"] for one in trainers}
    assert {"watched", "second"} <= names
    assert "script" not in names, "it serves no metrics, so it is no target"
    answered = {one["metric"]["name"] for one in trainers if any(float(value) for _, value in one["values"])}
    assert {"watched", "second"} <= answered


def test_the_namespace_of_a_jobs_metrics_is_the_jobs(run: Run) -> None:
    assert {one["metric"]["namespace"] for one in run.seen("finetune_job_info")} == {run.jobs.namespace}
    assert {one["metric"]["namespace"] for one in run.seen("finetune_operator_leader")} == {SYSTEM}
    assert run.seen('{__name__=~"finetune_.+",exported_namespace!=""}') == []


def test_the_operator_says_what_the_status_does_and_the_trainer_is_ahead_of_it(run: Run) -> None:
    """The trainer exposes every step, and reports some of them."""
    status = run.jobs.status("second")
    (loss,) = run.server.query('finetune_job_loss{name="second"}')
    assert float(loss["value"][1]) == pytest.approx(status["progress"]["loss"])
    (step,) = run.server.query('finetune_job_step{name="second"}')
    assert float(step["value"][1]) == status["progress"]["step"]
    steps = run.values('finetune_train_steps_total{name="second"}')
    assert steps == sorted(steps)
    assert steps[-1] >= run.values('finetune_job_step{name="second"}')[0] > 0


def test_the_retried_job_has_two_attempts_and_repeated_steps(run: Run) -> None:
    attempts = {one["metric"]["attempt"] for one in run.seen('finetune_train_steps_total{name="watched"}')}
    assert attempts == {"1", "2"}
    assert run.values('finetune_job_attempt{name="watched"}')[-1] == 2
    assert 0.5 < run.values('finetune_job_goodput_ratio{name="watched"}')[-1] <= 1


def test_prometheus_evaluates_every_rule(run: Run) -> None:
    loaded = [rule for group in run.server.api("rules")["groups"] for rule in group["rules"]]
    assert len(loaded) == len(RULES)
    assert [(rule["name"], rule.get("lastError")) for rule in loaded if rule["health"] != "ok"] == []


@pytest.mark.parametrize("name", [rule["record"] for rule in RULES if "record" in rule])
def test_every_recording_rule_has_data(run: Run, name: str) -> None:
    assert run.seen(name)


@pytest.mark.parametrize(
    ("name", "expression"), [(rule["alert"], rule["expr"]) for rule in RULES if "alert" in rule]
)
def test_every_alert_has_data_to_decide_on(run: Run, name: str, expression: str) -> None:
    """Without its limits, and with windows as short as this run."""
    assert run.seen(without_limits(expression)), name


def without_limits(expression: str) -> str:
    """An alert's expression without comparisons with numbers and its long windows."""
    found = re.sub(r"(==|>=|<=|<|>) *[\d.]+", "", expression)
    found = re.sub(r"\[(30m|1h):1m\]", "[30s:2s]", found.replace(" offset 30m", ""))
    return re.sub(r"^absent\((.*)\)$", r"\1", found)


def test_limits_are_taken_away() -> None:
    assert without_limits('absent(a{b="c"})') == 'a{b="c"}'
    assert without_limits('a{p="R"} >= 3 and b offset 30m') == 'a{p="R"}  and b'


def test_a_failed_and_a_stuck_job_raise_their_alerts(run: Run) -> None:
    alerts = {
        (one["labels"]["alertname"], one["labels"].get("name")): one["state"]
        for one in run.server.api("alerts")["alerts"]
    }
    assert alerts["FineTuneJobFailed", "broken"] == "firing"
    assert alerts["FineTuneJobStuckPending", "stuck"] == "pending", "for 30 minutes"
    names = {name for _, name in alerts}
    assert "watched" not in names
    assert not any(name and name.startswith(("tune-", "both-")) for name in names), "trials raise none"


def queries(dashboard: Path) -> Iterator[tuple[str, str]]:
    """Title and expression of every query of a dashboard's panels."""
    board: dict[str, Any] = json.loads(dashboard.read_text())
    waiting = list(board["panels"])
    while waiting:
        panel = waiting.pop(0)
        waiting += panel.get("panels", [])
        for target in panel.get("targets", []):
            if target.get("expr"):
                yield f"{dashboard.stem}: {panel['title']}", target["expr"]


def chosen(expression: str, namespace: str) -> str:
    """A query with the variables of a dashboard filled in: this namespace, every job."""
    found = expression.replace('name="$job"', 'name=~".+"').replace("$job", ".+")
    values = {"$namespace": namespace, "$__rate_interval": "1m", "$__range": "30m", "$__from": "0"}
    for variable, value in values.items():
        found = found.replace(variable, value)
    assert "$" not in re.sub(r'"\$\d"', "", found), f"another variable: {expression}"
    return found


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_has_data(run: Run, dashboard: Path) -> None:
    empty = {title for title, query in queries(dashboard) if not run.seen(chosen(query, run.jobs.namespace))}
    assert empty <= NOT_IN_THIS_RUN


def test_a_restart_of_the_operator_counts_nothing_again(run: Run) -> None:
    spent = "sum(max by (namespace, name) (finetune_job_gpu_seconds_total))"
    before = float(run.server.query(spent)[0]["value"][1])
    (leader,) = run.server.query("finetune_operator_leader")
    old = leader["metric"]["pod"]
    run.jobs.platform.kubectl("delete", "pod", "-n", SYSTEM, old)
    run.jobs.platform.kubectl(
        "rollout", "status", "-n", SYSTEM, "deployment/finetune-operator", "--timeout=120s"
    )
    run.wait(f'finetune_jobs{{namespace="{run.jobs.namespace}",pod!="{old}"}}')
    assert float(run.server.query(spent)[0]["value"][1]) == before > 0
    assert run.server.query(f'finetune_jobs_finished_total{{pod!="{old}"}}')
    counted = run.server.query(f'finetune_jobs_finished_total{{pod!="{old}"}} > 0')
    assert counted == [], "what had ended before is not counted again"
    assert run.server.query('finetune_job_state{name="broken",phase="Failed",reason="DataError"}')
