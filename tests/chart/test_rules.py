"""Recording rules and alerts, by Prometheus' own promtool: each alert fires where it should, and only there."""

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from chart.rendering import ALL, CHART, NAMESPACE, Json, Rendered
from finetune_api.exposition import Kind
from finetune_cluster.prometheus import prometheus_program
from finetune_operator.metrics.definitions import definitions
from finetune_trainer.reporting import metrics as trainer

ROOT = CHART.parents[1]
RULES = CHART / "files" / "rules.yaml"
GROUPS: list[Json] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: dict[str, Json] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}
RUNBOOKS = ROOT / "docs" / "alerts"
DCGM = Path(__file__).with_name("dcgm.prom")
TARGET = 'job="finetune-operator",instance="10.0.0.7:8080"'
POD = 'job="finetune-system/finetune-operator-trainers",instance="10.0.0.9:9100",pod="p",attempt="1"'


def of(metric: str, values: str, job: str = "one", *, source: str = TARGET, **labels: str) -> Json:
    """An input series of a job, one sample a minute; `namespace` and `name` as both monitors give them."""
    more = "".join(f',{name}="{value}"' for name, value in labels.items())
    return {"series": f'{metric}{{namespace="team-a",name="{job}"{more},{source}}}', "values": values}


def state(values: str, phase: str, reason: str = "Running", job: str = "one") -> Json:
    return of("finetune_job_state", values, job, phase=phase, reason=reason)


def info(job: str = "one") -> Json:
    return of("finetune_job_info", "1x300", job, kind="Training")


def operator(metric: str, values: str, **labels: str) -> Json:
    """An input series of the operator itself."""
    found = {"namespace": NAMESPACE} | labels
    more = ",".join(f'{name}="{value}"' for name, value in found.items())
    return {"series": f"{metric}{{{more},{TARGET}}}", "values": values}


def dcgm(job_pod: str, *, renamed: bool) -> list[Json]:
    """What dcgm-exporter exposes, as Prometheus stores it: with honorLabels, or with its labels renamed."""
    found = []
    for family in text_string_to_metric_families(DCGM.read_text()):
        for sample in family.samples:
            labels = dict(sample.labels)
            if renamed:
                taken = {"namespace": "gpu-operator", "pod": "dcgm-exporter-4x", "container": "exporter"}
                labels = {f"exported_{k}" if k in taken else k: v for k, v in labels.items() if v} | taken
            text = ",".join(f'{name}="{value}"' for name, value in labels.items() if value)
            found.append({"series": f"{sample.name}{{{text}}}", "values": f"{sample.value:g}x300"})
    held = of("finetune_job_pod_info", "1x300", pod=job_pod)
    assert any(job_pod in one["series"] for one in found)
    return [*found, held]


BUSY_POD = "movie-sentiment-7d2c1e8a-a1-0-x7k2p"


@dataclass(frozen=True)
class Case:
    """Series for which an alert fires at `at`, and others, often almost the same, for which it does not."""

    fires: list[Json]
    silent: list[Json]
    at: str
    summary: str
    description: str
    labels: Json = field(default_factory=lambda: {"namespace": "team-a", "name": "one"})


STUCK = [of("finetune_job_step", "0+5x20 100x300"), state("1x300", "Running")]
STALE = "finetune_train_checkpoint_last_success_timestamp_seconds"
CASES = {
    "FineTuneJobFailed": Case(
        [state("_x5 1x60", "Failed", "OutOfMemory")],
        [state("1x60", "Succeeded", "Succeeded"), state("1x60", "Suspended", "Suspended", "two")],
        "6m",
        "FineTuneJob team-a/one failed (OutOfMemory)",
        "The message of its condition Failed says what to change. The alert ends an hour after the job.",
        {"namespace": "team-a", "name": "one", "reason": "OutOfMemory"},
    ),
    "FineTuneJobStuckPending": Case(
        [state("1x10", "Pending", "Starting"), state("_x10 1x60", "Pending", "Unschedulable")],
        [
            state("1x20 _x60", "Pending", "Starting"),
            state("_x20 1x60", "Running"),
            state("1x80", "Pending", "Queued", "two"),
        ],
        "40m",
        "FineTuneJob team-a/one has been pending for 30 minutes",
        "Reason: Unschedulable.",
    ),
    "FineTuneNoProgress": Case(
        STUCK,
        [
            # slow, and a restart of the operator at minute 30 gives its series new labels
            of("finetune_job_step", "0x20 1x10 _x60"),
            of(
                "finetune_job_step",
                "_x31 1x9 2x60",
                source='job="finetune-operator",instance="10.0.0.8:8080"',
            ),
            state("1x30 _x60", "Running"),
            # pending for most of the time, with the step of its first attempt
            of("finetune_job_step", "40x90", "two"),
            state("1x50 _x60", "Pending", "Unschedulable", "two"),
            state("_x51 1x60", "Running", job="two"),
            # finished
            of("finetune_job_step", "40x90", "three"),
            state("1x90", "Succeeded", "Succeeded", "three"),
        ],
        "60m",
        "FineTuneJob team-a/one has made no optimizer step for 30 minutes",
        "It is at step 100.",
    ),
    "FineTuneLossNotFinite": Case(
        [of("finetune_train_nonfinite_total", "0x5 1x60", source=POD), info()],
        [
            of("finetune_train_nonfinite_total", "1x60", source=POD),
            info(),
            # a trial: it has no finetune_job_info
            of("finetune_train_nonfinite_total", "0x5 3x60", "search-1a2b3c4d-t001", source=POD),
        ],
        "10m",
        "FineTuneJob team-a/one had a NaN or infinite loss or gradient",
        "The log names the rows and the first layer. Such a step never changes the weights.",
    ),
    "FineTuneCheckpointStale": Case(
        [
            of(STALE, "600x300", source=POD),
            of("finetune_train_steps_total", "0+1x300", source=POD),
            of("finetune_job_start_timestamp_seconds", "0x300"),
            info(),
        ],
        [
            of(STALE, "600x60 6000x300", source=POD),
            of("finetune_train_steps_total", "0+1x300", source=POD),
            info(),
            # the third attempt of a job that began long ago has not reached its first checkpoint
            of("finetune_train_steps_total", "_x140 1+1x10 _x300", "two", source=POD),
            of("finetune_job_start_timestamp_seconds", "0x300", "two"),
            info("two"),
            # prepares its data: no step yet
            of("finetune_train_steps_total", "0x300", "three", source=POD),
            of("finetune_job_start_timestamp_seconds", "0x300", "three"),
            info("three"),
        ],
        "150m",
        "FineTuneJob team-a/one has saved no checkpoint for 2h 20m 0s",
        "If its pod is interrupted now, all steps since then are repeated.",
    ),
    "FineTuneRetryStorm": Case(
        [of("finetune_job_attempt", "1x10 2x10 3x10 4x60"), state("1x90", "Running")],
        [
            of("finetune_job_attempt", "1x10 2x60"),
            state("1x90", "Running"),
            of("finetune_job_attempt", "1x10 2x10 3x10 4x60", "two"),
            state("1x90", "Failed", "TrainerFault", "two"),
        ],
        "35m",
        "FineTuneJob team-a/one has begun 3 further attempts within an hour",
        "Its GPUs are paid for mostly to start again.",
    ),
    "FineTuneGPUIdle": Case(
        [*dcgm(BUSY_POD, renamed=False), state("1x300", "Running")],
        [*dcgm("notebook-0", renamed=False), state("1x300", "Running")],
        "40m",
        "The GPUs of FineTuneJob team-a/one are 4% busy",
        "Less than 10 % for 30 minutes.",
    ),
    "FineTuneDeadlineAtRisk": Case(
        [of("finetune_job_eta_seconds", "3000x60"), of("finetune_job_deadline_timestamp_seconds", "3000x60")],
        [of("finetune_job_eta_seconds", "1000x60"), of("finetune_job_deadline_timestamp_seconds", "3000x60")],
        "20m",
        "FineTuneJob team-a/one will miss its deadline by 20m 0s",
        "Its estimated time left is longer than what spec.activeDeadlineSeconds leaves.",
    ),
    "FineTuneOperatorDown": Case(
        [
            operator("finetune_operator_leader", "1x5 _x60"),
            operator("finetune_operator_leader", "1x60", namespace="b"),
        ],
        [operator("finetune_operator_leader", "1x60")],
        "20m",
        "The FineTuneJob operator is not running, or Prometheus cannot scrape it",
        "Pods that train go on. New jobs do not start, and failed ones are not retried.",
        {"namespace": NAMESPACE},
    ),
    "FineTuneNodeAvoided": Case(
        [operator("finetune_excluded_node_jobs", "_x5 1x5 2x60", node="gpu-7")],
        [
            operator("finetune_excluded_node_jobs", "2x5 _x60", node="gpu-7"),
            operator("finetune_excluded_node_jobs", "1x60", node="gpu-8"),
            operator("finetune_excluded_node_jobs", "1x60", node="gpu-9"),
        ],
        "15m",
        "2 FineTuneJobs avoid the node gpu-7, on which their attempts failed",
        "Two of the last three failures of each happened there. Each job avoids it for a day; new jobs do not.",
        {"node": "gpu-7"},
    ),
    "FineTuneOperatorNoLeader": Case(
        [
            operator("finetune_operator_leader", "1x5 _x60"),
            operator("finetune_operator_leader", "0x60", pod="standby"),
            operator("finetune_operator_leader", "1x60", namespace="b"),
        ],
        [
            operator("finetune_operator_leader", "1x5 _x60"),
            operator("finetune_operator_leader", "0x6 1x60", pod="standby"),
        ],
        "20m",
        "The FineTuneJob operator is running, and none of its replicas leads",
        "Pods that train go on. New jobs do not start, and failed ones are not retried. "
        "/readyz of a replica says whom it waits for.",
        {"namespace": NAMESPACE},
    ),
    "FineTuneReconcileErrors": Case(
        [
            operator("finetune_operator_reconcile_errors_total", "0+6x90"),
            operator("finetune_operator_reconcile_duration_seconds_count", "0+24x90"),
        ],
        [
            operator("finetune_operator_reconcile_errors_total", "0+1x90"),
            operator("finetune_operator_reconcile_duration_seconds_count", "0+24x90"),
        ],
        "40m",
        "25% of the operator's reconciles fail",
        "They are retried with growing pauses. The operator's log names the jobs and the error.",
        {"job": "finetune-operator"},
    ),
    "FineTuneWatchStale": Case(
        [operator("finetune_operator_watch_age_seconds", "0+60x60", kind="Pod")],
        [operator("finetune_operator_watch_age_seconds", "0+60x10 0+60x10 0+60x10 0+60x10", kind="Pod")],
        "35m",
        "What the operator knows of Pod objects is 35m 0s old",
        "No watch event and no comparison with the API server, which happens every ten minutes.",
        {"kind": "Pod"},
    ),
}


def promtool(*arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    command = [str(prometheus_program("promtool")), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)


def run_tests(folder: Path, tests: list[Json]) -> "subprocess.CompletedProcess[str]":
    """`promtool test rules` with these tests of the rules."""
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    return promtool("test", "rules", str(file))


def expects(name: str, series: list[Json], at: str, alerts: list[Json]) -> Json:
    wanted = {"eval_time": at, "alertname": name, "exp_alerts": alerts}
    return {"interval": "1m", "input_series": series, "alert_rule_test": [wanted]}


def alert(name: str, case: Case) -> Json:
    """The alert with all its texts."""
    annotations = {
        "summary": case.summary,
        "description": case.description,
        "runbook_url": ALERTS[name]["annotations"]["runbook_url"],
    }
    return {"exp_labels": case.labels | ALERTS[name]["labels"], "exp_annotations": annotations}


def test_every_alert_has_its_cases() -> None:
    assert set(CASES) == set(ALERTS)


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_and_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    done = run_tests(tmp_path, [expects(name, case.fires, case.at, [alert(name, case)])])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", CASES)
def test_an_alert_is_silent_where_nothing_is_wrong(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    done = run_tests(tmp_path, [expects(name, case.silent, case.at, [])])
    assert done.returncode == 0, done.stdout + done.stderr
    assert case.silent, "an alert without any series is silent for another reason"


def test_idle_gpus_are_seen_where_prometheus_renames_the_labels_of_dcgm(tmp_path: Path) -> None:
    name = "FineTuneGPUIdle"
    series = [*dcgm(BUSY_POD, renamed=True), state("1x300", "Running")]
    done = run_tests(tmp_path, [expects(name, series, "40m", [alert(name, CASES[name])])])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_that_ended_with_a_nan_between_two_scrapes_is_seen(tmp_path: Path) -> None:
    name = "FineTuneLossNotFinite"
    series = [state("1x60", "Failed", "Diverged")]
    done = run_tests(tmp_path, [expects(name, series, "5m", [alert(name, CASES[name])])])
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", "--lint-fatal", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(len(group['rules']) for group in GROUPS)} rules found" in done.stdout


def test_a_wrong_rule_is_found(tmp_path: Path) -> None:
    broken = tmp_path / "rules.yaml"
    broken.write_text(RULES.read_text().replace("sum by (namespace)", "sum by namespace)", 1))
    assert promtool("check", "rules", str(broken)).returncode != 0


def names_in(expression: str) -> set[str]:
    return set(
        re.findall(r"\b(?:finetune_[a-z_]+|DCGM_[A-Z_]+)\b(?!:)", re.sub(r"[\w]+:[\w:]+", "", expression))
    )


def test_every_metric_of_a_rule_is_one_that_we_expose() -> None:
    known = {"DCGM_FI_DEV_GPU_UTIL"}
    for one in [*definitions(), *trainer.definitions()]:
        known |= (
            {f"{one.name}_{part}" for part in ("bucket", "sum", "count")}
            if one.kind is Kind.HISTOGRAM
            else {one.name}
        )
    used = {name for group in GROUPS for rule in group["rules"] for name in names_in(rule["expr"])}
    assert len(used) > 15
    assert used <= known


def test_every_alert_has_a_runbook_that_begins_with_three_commands() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/alerts/{name}.md")
        page = (RUNBOOKS / f"{name}.md").read_text()
        assert re.findall(r"^#+ .*$", page, re.MULTILINE) == [f"# {name}", "## First commands", "## Remedy"]
        (commands,) = re.findall(r"## First commands\n\n```\n(.*?)```", page, re.DOTALL)
        assert len(commands.splitlines()) == 3, name
        assert f"alerts/{name}.md" in (ROOT / "docs" / "monitoring.md").read_text()


def rendered_rules(values: Json, **release: str) -> dict[str, Json]:
    found = Rendered.of({"metrics": {"rules": {"enabled": True} | values}}, **release).only("PrometheusRule")
    return {
        rule.get("alert", rule.get("record")): rule
        for group in found["spec"]["groups"]
        for rule in group["rules"]
    }


def test_the_chart_has_these_rules() -> None:
    assert list(rendered_rules({}).values()) == [rule for group in GROUPS for rule in group["rules"]]


def test_the_chart_names_its_own_namespace_and_your_runbooks() -> None:
    rules = rendered_rules(
        {"runbookURL": "https://runbooks.example/ft/", "disabled": ["FineTuneGPUIdle"]}, namespace="ops"
    )
    assert 'namespace="ops"' in rules["FineTuneOperatorDown"]["expr"]
    url = rules["FineTuneJobFailed"]["annotations"]["runbook_url"]
    assert url == "https://runbooks.example/ft/FineTuneJobFailed.md"
    assert set(ALERTS) - set(rules) == {"FineTuneGPUIdle"}


def test_nothing_of_the_prometheus_operator_is_installed_unasked() -> None:
    kinds = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
    assert list(Rendered.of().all(*kinds)) == []
    found: list[Any] = list(Rendered.of(ALL).all(*kinds))
    assert [one["kind"] for one in found] != []
    assert all(one["metadata"]["labels"]["release"] == "prometheus" for one in found)
    assert json.dumps(found).count('"interval"') == 2
