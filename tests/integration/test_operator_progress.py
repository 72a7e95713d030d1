"""The progress endpoint, over TLS, with real tokens: who may report, for which job, and what a report changes."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import urllib3

from finetune_api.run import RunReport
from finetune_api.status import ProgressStatus
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    Operator,
    Rest,
    World,
    bound_pod_of,
    serving,
    until,
)
from ports import free_port

Json = dict[str, Any]


SCRIPT = {"command": ["python", "/scripts/train.py"], "objective": None}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    with serving(
        cluster,
        folder,
        "progress",
        "neighbour",
        progress_url=f"https://127.0.0.1:{port}",
        progress_port=port,
        progress_interval=0.5,
        retry_backoff=0.1,
        tls_folder=folder / "tls",
    ) as started:
        yield started


@pytest.fixture
def world(operator: Operator, rest: Rest) -> World:
    return World(rest, "progress")


@dataclass(frozen=True)
class Trainer:
    """What runs in a pod: it knows the certificate of its configuration and its own token."""

    port: int
    authority: str
    token: str

    def post(self, body: Any, **headers: str) -> int:
        """The answer's status."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with urllib3.PoolManager(ca_cert_data=self.authority, retries=False, timeout=60) as pool:
            given = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"} | headers
            answer = pool.request(
                "POST", f"https://127.0.0.1:{self.port}/v1/progress", body=data, headers=given
            )
            return answer.status


def authority_of(world: World, name: str) -> str:
    return world.files(name)[0]["ca.crt"]


def begin(world: World, port: int, **spec: Any) -> tuple[str, str, Trainer]:
    """A running job, its pod, and the trainer in it."""
    name = world.apply(**spec)
    pod = world.run(name)
    world.until_phase(name, "Running")
    return name, pod, Trainer(port, authority_of(world, name), world.token(pod))


def report(step: int) -> Json:
    said = RunReport(progress=ProgressStatus(step=step, total_steps=100, percent=step, loss=1.5))
    return {"runReport": said.to_json()}


def step_of(world: World, name: str) -> int | None:
    return (world.status(name).get("progress") or {}).get("step")


def test_a_report_is_in_the_status_long_before_the_next_comparison(world: World, port: int) -> None:
    name, _, trainer = begin(world, port)
    assert trainer.post(report(12)) == 200
    until(lambda: step_of(world, name) == 12, "the report is in the status")
    assert world.status(name)["display"]["progress"] == "12%"


def test_an_unmodified_hugging_face_trainer_is_understood(world: World, port: int) -> None:
    name, _, trainer = begin(world, port)
    metrics = [{"name": "loss", "value": "0.5"}, {"name": "current_step", "value": "7"}]
    status = {"progressPercentage": 7, "estimatedRemainingSeconds": 60, "metrics": metrics}
    assert trainer.post({"trainerStatus": status}) == 200
    until(lambda: step_of(world, name) == 7, "the report is in the status")
    assert world.status(name)["progress"]["loss"] == 0.5


def test_the_last_report_of_a_script_has_no_step_comes_at_once_and_is_kept(world: World, port: int) -> None:
    """As a Hugging Face Trainer sends them: at the beginning, at a step, and at the end."""
    name, pod, trainer = begin(world, port, **SCRIPT)

    def post(percent: int, **metrics: float) -> int:
        listed = [{"name": key, "value": str(value)} for key, value in metrics.items()]
        return trainer.post({"trainerStatus": {"progressPercentage": percent, "metrics": listed}})

    assert post(0, total_steps=8) == 200
    assert post(87, current_step=7, total_steps=8, current_epoch=0.9, loss=0.5) == 200
    assert post(100, loss=0.5, train_loss=0.75) == 200
    until(
        lambda: (world.status(name).get("progress") or {}).get("percent") == 100, "the last is in the status"
    )
    progress = world.status(name)["progress"]
    assert (progress["step"], progress["totalSteps"], progress["epoch"]) == (7, 8, 0.9)
    world.end(pod, 0)
    status = world.until_phase(name, "Succeeded")
    assert status["progress"]["step"] == status["attempts"][0]["toStep"] == 7
    assert status["model"]["metrics"] == {"train_loss": 0.75}


@pytest.mark.parametrize(
    "kind", ["no token", "junk token", "no text", "wrong audience", "no pod's token", "a foreign pod"]
)
def test_who_may_not_report_is_refused_and_changes_nothing(
    world: World, port: int, operator: Operator, kind: str
) -> None:
    name, pod, trainer = begin(world, port)
    if kind == "a foreign pod":
        spec = {"containers": [{"name": "x", "image": "x"}]}
        world.rest(
            "POST", world.at("/api/v1/namespaces/{}/pods"), {"metadata": {"name": "stranger"}, "spec": spec}
        )
    tokens = {
        "no token": lambda: "",
        "junk token": lambda: "a.b.c",
        "no text": lambda: "a.\xff.c",
        "wrong audience": lambda: world.token(pod, audience="another"),
        "no pod's token": lambda: world.token(None),
        "a foreign pod": lambda: world.token("stranger"),
    }
    stranger = Trainer(port, trainer.authority, tokens[kind]())
    assert stranger.post(report(50)) == (403 if kind == "a foreign pod" else 401)
    assert trainer.post(report(1)) == 200
    until(lambda: step_of(world, name), "the true report is in the status")
    assert step_of(world, name) == 1


def test_a_trainer_speaks_for_its_own_job_only(world: World, port: int) -> None:
    mine, pod, trainer = begin(world, port)
    other, _, _ = begin(world, port)
    assert bound_pod_of(trainer.token) == pod
    assert trainer.post(report(30) | {"jobName": other, "namespace": "progress"}) == 200
    until(lambda: step_of(world, mine) == 30, "the report is with its own job")
    assert step_of(world, other) is None


def test_a_pod_whose_labels_name_a_job_of_another_namespace_speaks_for_nobody(
    world: World, port: int, rest: Rest
) -> None:
    name, pod, trainer = begin(world, port)
    neighbour = World(rest, "neighbour")
    neighbour.apply(name)
    made = (world.get_pod(pod) or {})["metadata"]
    spoof = {name: made[name] for name in ("labels", "ownerReferences")} | {
        "name": "spoof",
        "finalizers": ["finetune.dev/test"],  # its owner is not in that namespace: it would be collected
    }
    spec = {"containers": [{"name": "trainer", "image": "x"}]}
    neighbour.rest("POST", neighbour.at("/api/v1/namespaces/{}/pods"), {"metadata": spoof, "spec": spec})
    stranger = Trainer(port, trainer.authority, neighbour.token("spoof"))
    assert stranger.post(report(99)) in (401, 403)
    assert trainer.post(report(1)) == 200
    until(lambda: step_of(world, name), "the true report is in the status")
    assert step_of(world, name) == 1


def test_the_pod_of_an_attempt_that_is_over_is_not_heard(world: World, port: int) -> None:
    name, pod, old = begin(world, port)
    world.end(pod, 75)
    world.run(name, attempt=2)
    until(
        lambda: world.status(name)["phase"] == "Running" and world.status(name)["attempt"] == 2,
        "attempt 2 runs",
    )
    assert old.post(report(90)) in (401, 403)
    assert step_of(world, name) is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"x" * 70_000, 413),
        (b"not json", 400),
        (b"[1]", 400),
        (b"{}", 400),
        (b'{"trainerStatus": 5}', 400),
        (b'{"runReport": 5}', 400),
        (b'{"runReport": {"hologram": 1}}', 400),
        (b"[" * 30_000, 400),
        (b"\xff\xfe", 400),
        (b'{"runReport": {"version": 2, "progress": {"step": 1}}}', 400),
    ],
    ids=[
        "too long",
        "text",
        "list",
        "empty",
        "number",
        "report",
        "unknown field",
        "deep",
        "bytes",
        "version",
    ],
)
def test_junk_is_refused_and_changes_nothing(
    shared_job: tuple[str, Trainer], world: World, operator: Operator, body: bytes, status: int
) -> None:
    name, trainer = shared_job
    assert trainer.post(body) == status
    assert operator.alive
    assert step_of(world, name) is None


@pytest.fixture(scope="module")
def shared_job(operator: Operator, rest: Rest, port: int) -> tuple[str, Trainer]:
    name, _, trainer = begin(World(rest, "progress"), port)
    return name, trainer


def test_a_flood_of_reports_is_slowed_down(world: World, port: int, operator: Operator) -> None:
    _, _, trainer = begin(world, port)
    assert trainer.post(report(0)) == 200
    with ThreadPoolExecutor(8) as pool:  # side by side: one after the other, four may take a second
        flood = (pool.map(lambda step: trainer.post(report(step)), range(16)) for _ in range(20))
        assert any(429 in answers for answers in flood)


def test_a_finished_job_hears_no_more(world: World, port: int) -> None:
    name, pod, trainer = begin(world, port)
    world.succeed(pod)
    status = world.until_phase(name, "Succeeded")
    trainer.post(report(1))
    time.sleep(0.7)
    assert world.status(name) == status


def test_what_a_trainer_is_given_leads_to_the_endpoint(world: World, port: int) -> None:
    name, pod, _ = begin(world, port)
    run = json.loads(world.files(name)[0]["run.json"])
    assert run["progress"]["url"] == f"https://127.0.0.1:{port}/v1/progress"
    volumes = {one["name"]: one for one in (world.get_pod(pod) or {})["spec"]["volumes"]}
    source = volumes["token"]["projected"]["sources"][0]["serviceAccountToken"]
    assert source["audience"] == "finetune-operator"


def test_after_a_restart_the_same_certificate_serves_the_pods_that_run(
    world: World, port: int, operator: Operator
) -> None:
    name, _, trainer = begin(world, port)
    operator.kill()
    operator.start().ready()
    assert trainer.post(report(44)) == 200
    until(lambda: step_of(world, name) == 44, "the report is in the status")
