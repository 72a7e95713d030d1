"""A job on several nodes: its objects, and what is decided about several pods."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from builders import job, script_job
from finetune_api.run import ExitCode, RunReport
from finetune_api.status import EffectiveStatus
from finetune_core.decide.observation import InputView, PodView
from finetune_core.decide.pods import first_failing
from finetune_core.plan.conclusion import of_one_pod
from finetune_core.plan.effective import resolve
from finetune_operator.reports import Reports
from unit.operator.worlds import (
    CREATE,
    NOTHING,
    REPORT,
    STOP,
    T0,
    Life,
    child,
    ended_pod,
    files,
    parsed,
    planned,
    pod,
    run_json,
    running_pod,
    seconds,
    seen,
    settings,
)

TWO = {"nodes": 2, "gpusPerNode": 0}
NAME = "movie-sentiment-7d2c1e8a"


def node(index: int, view: PodView) -> PodView:
    """The pod of this number."""
    return replace(view, name=f"pod-{index}", index=index, node=f"n{index}" if view.node else None)


def running(count: int = 2) -> list[PodView]:
    return [node(index, running_pod()) for index in range(count)]


def life(**fields: Any) -> Life:
    return Life(parsed(resources=TWO, **fields))


def began(of: Life) -> Life:
    """With both pods running."""
    of.reconcile()
    of.reconcile(seen(child(), *running()), at=5)
    assert of.phase == "Running"
    return of


def failed(*pods: PodView, **fields: Any) -> Any:
    return seen(child(failed=True), *pods, **fields)


# its objects


def test_the_pods_of_an_attempt_are_an_indexed_job_with_names_in_the_dns() -> None:
    made = planned(job(resources=TWO), attempt=3)
    spec = made.job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["backoffLimit"] == 0
    template = spec["template"]
    assert made.service
    assert template["spec"]["subdomain"] == made.service["metadata"]["name"] == NAME
    selector = made.service["spec"]["selector"]
    assert selector.items() <= template["metadata"]["labels"].items()
    assert made.service["spec"]["clusterIP"] == "None"
    assert made.service["spec"]["publishNotReadyAddresses"] is True
    (owner,) = made.service["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["controller"]) == ("FineTuneJob", True)
    nodes = run_json(made)["nodes"]
    assert nodes == {"count": 2, "address": f"{NAME}-a3-0.{NAME}", "port": 29500}
    assert [one["name"] for one in container(made)["env"] if "valueFrom" in one] == ["PET_NODE_RANK"]


def test_a_job_of_one_pod_is_as_it_was() -> None:
    made = planned(job(resources={"nodes": 1}))
    assert made.service is None
    assert "completionMode" not in made.job["spec"]
    assert "subdomain" not in made.job["spec"]["template"]["spec"]
    assert "nodes" not in run_json(made)


def test_the_pod_of_a_search_itself_is_one() -> None:
    resolved = resolve(parsed(resources={"nodes": 4, "gpusPerNode": 2}), settings())
    for trains, gpus in ((True, 2), (False, 0)):
        one = of_one_pod(resolved, trains=trains).resources
        assert (one.nodes, one.gpus_per_node) == (1, gpus)


def container(made: Any) -> dict[str, Any]:
    (one,) = made.job["spec"]["template"]["spec"]["containers"]
    return one  # type: ignore[no-any-return]


def variables(made: Any, rank: int) -> dict[str, str]:
    """As the kubelet makes them in the pod of this number."""
    return {one["name"]: one.get("value", str(rank)) for one in container(made)["env"]}


def script(**resources: Any) -> Any:
    return planned(script_job(resources=resources))


@pytest.mark.parametrize(("gpus", "alone"), [(0, True), (1, True), (4, False)])
def test_a_script_finds_the_other_pods_by_its_environment(gpus: int, alone: bool) -> None:
    env = variables(script(nodes=2, gpusPerNode=gpus), 1)
    per_node = max(1, gpus)
    assert env["PET_NNODES"] == "2"
    assert env["PET_NPROC_PER_NODE"] == str(per_node)
    assert env["PET_NODE_RANK"] == env["NODE_RANK"] == "1"
    assert env["PET_MASTER_ADDR"] == env["MASTER_ADDR"] == "my-script-7d2c1e8a-a1-0.my-script-7d2c1e8a"
    assert env["PET_MASTER_PORT"] == env["MASTER_PORT"] == "29500"
    known = {name: env.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    assert known == (
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"} if alone else dict.fromkeys(known)
    ), "a pod with several processes leaves them to the launcher"
    assert env.get("ACCELERATE_USE_CPU") == (None if gpus else "true")


@pytest.mark.parametrize(
    ("command", "ranks"),
    [
        (["trl", "sft", "--output_dir", "/x"], False),
        (["/opt/venv/bin/trl", "dpo"], False),
        (["python", "-m", "trl", "kto"], False),
        (["sh", "-c", "cd /tmp && trl sft --use_cpu"], False),
        (["/bin/bash", "-ec", "exec /opt/venv/bin/trl sft\n"], False),
        (["python", "/mnt/claims/trl/train.py", "--project", "trl"], True),
        (["sh", "-c", "python train.py --project trl --run trl-1"], True),
    ],
)
def test_the_command_line_of_trl_does_not_join_before_it_launches(command: list[str], ranks: bool) -> None:
    env = variables(planned(script_job(command=command, resources=TWO)), 1)
    assert [name in env for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")] == 4 * [ranks]
    assert env["PET_NODE_RANK"] == "1"


def test_torchrun_takes_the_environment_of_each_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.run import config_from_args, get_args_parser

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = script(nodes=4, gpusPerNode=2)
    for rank in (0, 3):
        for name, value in variables(made, rank).items():
            monkeypatch.setenv(name, value)
        config, _, _ = config_from_args(get_args_parser().parse_args(["train.py"]))
        assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (4, 4, 2)
        assert (config.rdzv_backend, config.rdzv_configs["rank"]) == ("static", rank)
        assert config.rdzv_endpoint == "my-script-7d2c1e8a-a1-0.my-script-7d2c1e8a:29500"


@pytest.mark.parametrize("gpus", [0, 2])
def test_accelerate_launch_reads_the_configuration_of_its_pod(tmp_path: Any, gpus: int) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    made = script(nodes=2, gpusPerNode=gpus)
    (mount,) = [one for one in container(made)["volumeMounts"] if "subPathExpr" in one]
    home = variables(made, 1)["HF_HOME"]
    assert mount["mountPath"] == f"{home}/accelerate/default_config.yaml", "where accelerate looks by itself"
    assert any(one["mountPath"] == home and not one["readOnly"] for one in container(made)["volumeMounts"])
    for rank in range(2):
        text = files(made, mount["name"])[mount["subPathExpr"].replace("$(PET_NODE_RANK)", str(rank))]
        path = tmp_path / f"{rank}.yaml"
        path.write_text(text)
        assert yaml.safe_load(text)["machine_rank"] == rank
        parsed_arguments = launch_command_parser().parse_args(["--config_file", str(path), "train.py"])
        found, _, _ = _validate_launch_command(parsed_arguments)
        assert (found.num_machines, found.num_processes, found.machine_rank) == (2, 2 * max(1, gpus), rank)
        assert (found.multi_gpu, found.use_cpu) == (True, False), "its launcher gives ranks on a CPU too"
        assert found.main_process_ip == "my-script-7d2c1e8a-a1-0.my-script-7d2c1e8a"
        assert found.main_process_port == 29500


def test_a_topology_key_keeps_the_pods_of_an_attempt_together() -> None:
    made = planned(job(resources=TWO, scheduling={"topologyKey": "topology.kubernetes.io/zone"}), attempt=2)
    template = made.job["spec"]["template"]
    (term,) = template["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "topology.kubernetes.io/zone"
    wanted = term["labelSelector"]["matchLabels"]
    assert wanted.items() <= template["metadata"]["labels"].items()
    assert wanted["finetune.dev/attempt"] == "2"


@pytest.mark.parametrize(
    ("written", "given", "mode"),
    [
        (job(), {}, "ReadWriteOnce"),
        (job(resources=TWO), {}, "ReadWriteMany"),
        (job(resources=TWO, scheduling={"topologyKey": "kubernetes.io/hostname"}), {}, "ReadWriteOnce"),
        (job(resources=TWO, scheduling={"topologyKey": "a/zone"}), {}, "ReadWriteMany"),
        (job(resources=TWO), {"output_access_mode": "ReadWriteOnce"}, "ReadWriteOnce"),
    ],
)
def test_the_claim_that_is_made_can_be_mounted_by_all_pods(written: Any, given: Any, mode: str) -> None:
    claim = planned(written, given=settings(**given)).claim
    assert claim
    assert claim["spec"]["accessModes"] == [mode]


# before they start


def claim(*modes: str, name: str = "demo") -> InputView:
    return InputView("PersistentVolumeClaim", name, exists=True, access_modes=modes)


OUTPUT = {"uri": "pvc://out/model"}


@pytest.mark.parametrize(
    ("claims", "key", "refused"),
    [
        ([claim("ReadWriteMany"), claim("ReadWriteMany", name="out")], None, None),
        ([claim("ReadOnlyMany"), claim("ReadWriteOnce", "ReadWriteMany", name="out")], None, None),
        ([claim("ReadWriteOnce"), claim("ReadWriteMany", name="out")], None, "demo"),
        ([claim("ReadWriteMany"), claim("ReadOnlyMany", name="out")], None, "out"),
        ([claim("ReadWriteMany"), claim("ReadWriteOnce", name="out")], "a/zone", "out"),
        ([claim("ReadWriteOnce"), claim("ReadWriteOnce", name="out")], "kubernetes.io/hostname", None),
        ([claim("ReadWriteOnce"), claim("ReadWriteOncePod", name="out")], "kubernetes.io/hostname", "out"),
        ([InputView("PersistentVolumeClaim", "out", exists=False)], None, None),
    ],
)
def test_no_pod_is_made_while_a_claim_cannot_be_mounted_by_all(
    claims: list[InputView], key: str | None, refused: str | None
) -> None:
    scheduling = {"scheduling": {"topologyKey": key}} if key else {}
    of = life(output=OUTPUT, **scheduling)
    decision = of.reconcile(seen(*claims))
    if refused is None:
        assert decision.action is CREATE
        return
    assert (decision.action, of.reason, of.status.attempts) == (NOTHING, "ClaimNotShared", [])
    assert f"the claim {refused} has the access mode" in of.message
    assert decision.requeue_at == seconds(60)
    assert (
        of.reconcile(seen(claim("ReadWriteMany"), claim("ReadWriteMany", name="out")), at=60).action is CREATE
    )


@pytest.mark.parametrize(
    ("views", "says"),
    [
        (running(1), "1 of 2 pods run and wait: waiting for the pod of Job"),
        (
            [*running(1), node(1, pod(unschedulable="0/1 nodes are available"))],
            "1 of 2 pods run and wait: no node fits: 0/1 nodes are available",
        ),
        ([node(0, pod(unschedulable="nothing")), node(1, pod())], "no node fits: nothing"),
    ],
)
def test_a_job_runs_when_all_its_pods_do(views: list[PodView], says: str) -> None:
    of = life()
    of.reconcile()
    of.reconcile(seen(child(), *views), at=90)
    assert of.phase == "Pending"
    assert of.message.startswith(says)
    of.reconcile(seen(child(), *running()), at=95)
    assert (of.phase, of.message) == ("Running", "attempt 1 trains in 2 pods on nodes n0, n1")


GONE = InputView("Service", NAME, exists=False)


@pytest.mark.parametrize("views", [running(1), running(2)], ids=["one of two runs", "both run"])
def test_a_service_that_somebody_deleted_before_the_pods_met_is_made_again(views: list[PodView]) -> None:
    of = began(life())
    before = of.status
    decision = of.reconcile(seen(child(), *views, GONE), at=20)
    assert (decision.action, decision.status) == (CREATE, before)
    assert of.reconcile(seen(child(), *views, replace(GONE, exists=True)), at=21).action is NOTHING


def test_pods_that_have_not_reported_are_looked_after_at_growing_intervals_for_half_an_hour() -> None:
    of, looks = began(life()), [20.0]
    while (due := of.reconcile(seen(child(), *running()), at=looks[-1]).requeue_at) is not None:
        looks.append((due - T0).total_seconds())
    assert looks[1] - looks[0] == 15
    assert 1800 < looks[-1] < 1800 + 300
    assert len(looks) < 25
    met = RunReport(attempt=1, from_step=0)
    assert (
        began(life()).reconcile(seen(child(), *running(), report=met, at=seconds(20)), at=20).requeue_at
        is None
    )


def test_visits_that_write_nothing_add_nothing_to_what_the_job_used() -> None:
    of = life()
    of.reconcile()
    first = node(0, running_pod(since=seconds(4)))
    for at in range(5, 20):
        of.reconcile(seen(child(), first, node(1, pod())), at=at)
    of.reconcile(seen(child(), first, node(1, running_pod(since=seconds(20)))), at=20)
    assert of.phase == "Running"
    assert of.status.usage.queued_seconds == 4
    of.reconcile(
        failed(node(0, ended_pod(75, at=seconds(60))), node(1, ended_pod(75, at=seconds(60)))), at=60
    )
    assert (of.status.usage.queued_seconds, of.status.usage.gpu_seconds, of.status.active_seconds) == (
        4,
        56,
        56,
    )


def test_pods_on_one_machine_are_said_to_be() -> None:
    of = life()
    of.reconcile()
    of.reconcile(seen(child(), running_pod(), running_pod(index=1, name="second")), at=5)
    assert of.message == "attempt 1 trains in 2 pods on node n1"


# their end


def test_the_first_pod_has_the_model_and_all_have_to_end() -> None:
    of = began(life())
    first = node(0, ended_pod(0, report=REPORT))
    of.reconcile(seen(child(), first, running()[1]), at=60)
    assert of.phase == "Running"
    of.reconcile(seen(child(), first), at=61)
    assert of.phase == "Running", "the other pod has not been seen to end"
    of.reconcile(seen(child(), first, node(1, ended_pod(0, report=RunReport(exit_code=0)))), at=62)
    assert of.phase == "Succeeded"


def test_a_model_that_is_published_counts_though_another_pod_failed_after_it() -> None:
    of = began(life())
    of.reconcile(failed(node(0, ended_pod(0, report=REPORT)), node(1, ended_pod(137))), at=60)
    assert of.phase == "Succeeded"


def test_a_model_does_not_count_that_another_pod_than_the_first_reports() -> None:
    of = began(life())
    of.reconcile(failed(node(0, ended_pod(70)), node(1, ended_pod(0, report=REPORT))), at=60)
    assert of.last.reason == "TrainerFault"


def test_a_script_succeeds_when_all_its_pods_do() -> None:
    made = script_job(resources=TWO)
    of = began(Life(parsed(made)))
    of.reconcile(failed(node(0, ended_pod(0)), node(1, ended_pod(3))), at=60)
    assert (of.last.reason, of.last.exit_code) == ("ScriptFailed", 3)
    of = began(Life(parsed(made)))
    of.reconcile(seen(child(succeeded=True), node(0, ended_pod(0)), node(1, ended_pod(0))), at=60)
    assert of.phase == "Succeeded"


LOST = RunReport(exit_code=ExitCode.PEER_LOST, message="another process of this run was lost: reset by peer")


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ended_pod(137, end_reason="OOMKilled", at=seconds(60)), "HostOutOfMemory"),
        (ended_pod(65, report=RunReport(exit_code=65, message="row 7"), at=seconds(60)), "DataError"),
        (ended_pod(139, at=seconds(60)), "Crashed"),
        (ended_pod(75, disruption="EvictionByEvictionAPI", at=seconds(60)), "Preempted"),
        (ended_pod(137, at=seconds(60)), "Killed"),
        (running_pod(deleted=True), "PodLost"),
    ],
)
@pytest.mark.parametrize("at", [58, 62])
@pytest.mark.parametrize("index", [0, 1])
def test_the_first_failure_is_shown_not_what_follows_from_it(
    cause: PodView, reason: str, at: int, index: int
) -> None:
    """By the clocks of two nodes the one that follows may even end first."""
    of = began(life())
    follows = ended_pod(ExitCode.PEER_LOST, report=LOST, at=seconds(at))
    of.reconcile(failed(node(index, cause), node(1 - index, follows)), at=70)
    ended = of.status.attempts[0]
    assert (ended.reason, ended.node) == (reason, f"n{index}")


def test_what_the_first_pod_says_of_its_end_is_not_said_of_the_pod_that_was_killed() -> None:
    """The first pod also posts its last report as progress; a killed one leaves none."""
    of = began(life())
    pods = (node(1, ended_pod(137, at=seconds(60))), node(0, ended_pod(76, report=LOST, at=seconds(62))))
    of.reconcile(failed(*pods, report=LOST.model_copy(update={"attempt": 1}), at=seconds(62)), at=70)
    assert of.status.attempts[0].reason == "Killed"


def test_a_pod_that_was_stopped_after_another_one_failed_is_not_the_cause() -> None:
    cause = node(1, ended_pod(70, at=seconds(60)))
    killed = node(0, ended_pod(137, at=seconds(70)))
    stopped = node(2, ended_pod(75, at=seconds(59)))
    assert first_failing((killed, cause, stopped), own_script=False) is cause


def test_pods_that_all_lost_one_another_are_a_counted_retry_with_their_sentence() -> None:
    of = began(life())
    of.reconcile(failed(*(node(index, ended_pod(76, report=LOST)) for index in range(2))), at=60)
    ended = of.status.attempts[0]
    assert (ended.reason, ended.message, ended.counted) == ("PeerLost", LOST.message, True)


def test_of_a_script_the_pod_that_ended_first_is_the_cause() -> None:
    ends = [node(0, ended_pod(76, at=seconds(9))), node(1, ended_pod(1, at=seconds(8)))]
    assert first_failing(tuple(ends), own_script=True) is ends[1]


def test_no_attempt_follows_before_all_pods_have_ended() -> None:
    of = began(life())
    lost, alive = node(1, running_pod(deleted=True)), running()[0]
    decision = of.reconcile(failed(lost, alive), at=60)
    assert decision.action is NOTHING
    assert len(of.status.attempts) == 1
    assert of.reconcile(failed(lost, node(0, ended_pod(76))), at=62).action is CREATE
    assert [one.number for one in of.status.attempts] == [1, 2]


def test_a_lost_node_ends_the_attempt_when_the_pods_on_the_others_have_stopped() -> None:
    of = began(life())
    lost = node(1, running_pod(deleting=True, deletion=seconds(60)))
    of.reconcile(seen(child(), running()[0], lost), at=80)
    assert of.phase == "Running", "its kubelet may still answer"
    decision = of.reconcile(seen(child(), running()[0], lost), at=91)
    assert (decision.action, of.reason) == (STOP, "Stopping")
    assert of.message.startswith("node n1 does not answer: the other pods are stopped")
    stopping = replace(running()[0], deleting=True, deletion=seconds(211))
    assert of.reconcile(seen(child(deleting=True), stopping, lost), at=95).action is STOP
    ended = node(0, ended_pod(137, at=seconds(200)))
    of.reconcile(seen(child(deleting=True), ended, lost), at=200)
    first = of.status.attempts[0]
    assert (first.reason, first.node, first.counted) == ("NodeLost", "n1", False)


# pods that train apart


def reports_of(*pods: str, attempt: int = 1, report: RunReport | None = None) -> Any:
    reports, report = Reports(), report or RunReport()
    for name in pods:
        index = int(name.rpartition("-")[2])
        reports.put("uid", report.model_copy(update={"attempt": attempt}), seconds(5), name, index)
    found = reports.get("uid")
    assert found
    observed = seen(child(), *running(), report=found[0], at=found[1])
    return replace(observed, reporters=reports.reporters("uid"))


def test_two_pods_that_both_report_as_process_zero_are_stopped_with_that_sentence() -> None:
    of = began(Life(parsed(script_job(resources=TWO))))
    assert of.reconcile(reports_of("pod-0", "pod-0"), at=10).action is NOTHING
    decision = of.reconcile(reports_of("pod-0", "pod-1"), at=11)
    assert (decision.action, of.reason) == (STOP, "Stopping")
    assert "the pods pod-0 and pod-1 both report as process zero: every pod trains alone" in of.message
    assert of.reconcile(seen(child(), *running()), at=12).action is STOP, "a new operator has no reports"
    of.reconcile(seen(*(node(index, ended_pod(0, deleted=True)) for index in range(2))), at=13)
    assert (of.phase, of.reason) == ("Failed", "PodsApart")
    assert "both report as process zero" in of.message
    assert of.status.model is None


def test_pods_that_trained_apart_to_their_end_have_no_model() -> None:
    of = began(Life(parsed(script_job(resources=TWO))))
    both = reports_of("pod-0", "pod-1")
    ended = replace(both, pods=tuple(node(index, ended_pod(0)) for index in range(2)))
    of.reconcile(ended, at=20)
    assert (of.phase, of.reason, of.status.model) == ("Failed", "PodsApart", None)


def test_a_pod_that_its_queue_started_again_is_no_second_reporter() -> None:
    reports = Reports()
    for name in ("pod-0-before", "pod-0-after"):
        reports.put("uid", RunReport(), seconds(5), name, 0)
    assert reports.reporters("uid") == ("pod-0-after",)


def test_the_reporters_of_an_earlier_attempt_do_not_count() -> None:
    reports = Reports()
    for attempt, name in ((1, "pod-0"), (2, "pod-1")):
        reports.put("uid", RunReport(attempt=attempt), seconds(5), name)
    assert reports.reporters("uid") == ("pod-1",)
    reports.forget("uid")
    assert reports.reporters("uid") == ()


@pytest.mark.parametrize(("processes", "action"), [(2, NOTHING), (1, STOP), (4, STOP)])
def test_an_attempt_of_another_world_size_than_planned_is_stopped(processes: int, action: Any) -> None:
    of = began(life())
    report = RunReport(effective=EffectiveStatus(processes=processes))
    assert of.reconcile(reports_of("pod-0", report=report), at=10).action is action


def test_a_job_of_one_pod_may_report_from_its_replacement() -> None:
    of = Life(parsed(script_job())).running()
    assert of.reconcile(reports_of("pod-0", "pod-1"), at=10).action is NOTHING
