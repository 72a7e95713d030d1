"""Why a job does not run yet: one sentence, with what to do."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.status import ConditionType
from finetune_core.decide.observation import InputView, JobView, PodView
from unit.operator.worlds import Life, child, condition, over, parsed, pod, seconds, seen, settings

NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
NO_CLAIM = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."

View = JobView | PodView | InputView


def claim(name: str = "demo", **fields: object) -> InputView:
    return InputView("PersistentVolumeClaim", name, **({"exists": True} | fields))  # type: ignore[arg-type]


def pending(*views: View, at: float = 90, **fields: Any) -> tuple[str, str]:
    life = Life(parsed(resources={"gpusPerNode": 1}, **fields))
    begun = life.reconcile().status
    decision = life.reconcile(seen(child(), *views), at=at)
    assert life.phase == "Pending"
    assert decision.requeue_at
    assert life.status == begun or decision.requeue_at == seconds(at + max(15, at / 4))
    return life.reason, life.message


@pytest.mark.parametrize(
    ("views", "reason", "says"),
    [
        ([], "Starting", "waiting for the pod of Job movie-sentiment-7d2c1e8a-a1; kubectl describe job"),
        ([pod()], "Starting", "the pod pod-a1 is starting"),
        ([pod(node="n1")], "Starting", "the pod pod-a1 is starting on node n1"),
        (
            [
                pod(
                    unschedulable="Scheduling is blocked due to non-empty scheduling gates",
                    gates=("a/b", "c"),
                )
            ],
            "Pending",
            "the pod pod-a1 is held by the scheduling gate a/b, c",
        ),
        (
            [claim(exists=False), pod()],
            "MissingObject",
            "PersistentVolumeClaim demo does not exist in namespace",
        ),
        (
            [InputView("ConfigMap", "rows", exists=False), pod()],
            "MissingObject",
            "ConfigMap rows does not exist in namespace default; create it and the job starts",
        ),
        (
            [claim(bound=False, storage_class="fast"), pod(unschedulable=NO_CLAIM)],
            "ClaimNotBound",
            "the claim demo of storage class fast is not bound to a volume; see kubectl describe pvc demo -n default",
        ),
        ([claim(bound=False)], "Starting", "waiting for the pod of Job"),
        ([claim(bound=False), pod()], "ClaimNotBound", "the claim demo without storage class is not bound"),
        (
            [pod(unschedulable=NO_GPU)],
            "Unschedulable",
            "no node offers 1 free nvidia.com/gpu: wait, or set resources.gpusPerNode: 0 to train on CPU",
        ),
        (
            [pod(unschedulable="0/3 nodes: 3 Insufficient memory. preemption: 0/3 nodes are available.")],
            "Unschedulable",
            "no node fits: 0/3 nodes: 3 Insufficient memory; wait, or ask for less memory in resources.requests",
        ),
        (
            [
                pod(
                    unschedulable="0/2 nodes: 1 node(s) had untolerated taint(s), 1 cannot allocate all claims."
                )
            ],
            "Unschedulable",
            "1 cannot allocate all claims; the devices of resources.claims are not free on any node: wait, or claim"
            " fewer; scheduling.tolerations can tolerate a taint",
        ),
        (
            [pod(node="n1", waiting_reason="ImagePullBackOff", waiting_message="not found")],
            "ImagePullFailed",
            "on node n1: not found; check spec.image and scheduling.imagePullSecrets",
        ),
        (
            [pod(node="n1", waiting_reason="CreateContainerConfigError", waiting_message="no user")],
            "Pending",
            "the container cannot start on node n1: no user",
        ),
        ([pod(node="n1", waiting_reason="ContainerCreating")], "Starting", "is starting on node n1"),
    ],
)
def test_a_pending_job_says_why(views: list[View], reason: str, says: str) -> None:
    found = pending(*views)
    assert found[0] == reason
    assert says in found[1]


def cannot(volume: str, why: str) -> str:
    return f'MountVolume.SetUp failed for volume "{volume}" : {why}'


NFS = """mount failed: exit status 32
Mounting command: mount
Output: mount.nfs: Connection refused
"""


@pytest.mark.parametrize(
    ("said", "reason", "what", "remedy"),
    [
        (
            cannot("pv-7", NFS),
            "StorageFailed",
            "the claim demo (spec.model.uri, spec.dataset.train.uri) cannot be mounted on node n1: MountVolume.SetUp"
            ' failed for volume "pv-7" : mount failed: exit status 32 Mounting command: mount Output: mount.nfs:'
            " Connection refused",
            "check that the storage server runs and lets the node mount it",
        ),
        (
            cannot("input-1", 'configmap "chat" not found'),
            "MissingObject",
            "ConfigMap chat (spec.dataset.validation.uri) cannot be mounted",
            "create it, and the job continues",
        ),
        (
            cannot("hub-token", "references non-existent secret key: token"),
            "MissingObject",
            "Secret hub (spec.model.credentials.secretName) cannot be mounted",
            "add that key, and the job continues",
        ),
        (
            cannot("pv-7", "driver name x.example not found in the list of registered CSI drivers"),
            "StorageFailed",
            "the claim demo (",
            "install that CSI driver on the node",
        ),
        (
            'Multi-Attach error for volume "pv-9" Volume is already exclusively attached to one node',
            "StorageFailed",
            "the volume pv-9 cannot be mounted",
            "the volume is free when the pods that use it on another node have ended",
        ),
        (
            "Unable to attach or mount volumes: unmounted volumes=[output config], timed out",
            "StorageFailed",
            "the claim movie-sentiment-7d2c1e8a cannot be mounted",
            "the job continues when that is resolved",
        ),
        (
            "it is broken.",
            "StorageFailed",
            "a volume cannot be mounted on node n1: it is broken;",
            "resolved",
        ),
    ],
)
def test_a_volume_that_cannot_be_mounted_is_named_with_its_field_and_what_to_do(
    said: str, reason: str, what: str, remedy: str
) -> None:
    fields: dict[str, Any] = {
        "model": {"uri": "pvc://demo/models/base", "credentials": {"secretName": "hub"}},
        "dataset": {
            "train": {"uri": "pvc://demo/data/rows.jsonl"},
            "validation": {"uri": "configMap://chat/rows.jsonl"},
            "test": {"uri": "hf://datasets/org/rows/test.jsonl"},
        },
    }
    found, message = pending(claim(volume="pv-7"), pod(node="n1", unmounted=said), **fields)
    assert found == reason
    assert message.startswith(what)
    assert message.endswith(remedy) or remedy in message.rpartition("; ")[2]


def test_an_image_that_cannot_be_pulled_says_that_the_volumes_are_mounted() -> None:
    reason, _ = pending(pod(node="n1", unmounted=cannot("input-0", NFS), waiting_reason="ErrImagePull"))
    assert reason == "ImagePullFailed"


def test_an_unmountable_volume_counts_as_missing_from_when_its_pod_was_scheduled() -> None:
    life = Life()
    life.reconcile()
    stuck = pod(node="n1", unmounted=cannot("input-0", NFS), scheduled=seconds(500))
    decision = life.reconcile(seen(child(), stuck), at=2299)
    assert (life.reason, decision.requeue_at) == ("StorageFailed", seconds(2300))
    life.reconcile(seen(child(), stuck), at=2300)
    life.reconcile(seen(), at=2301)
    assert life.phase == "Failed"
    assert condition(life.status, ConditionType.FAILED).reason == "StartupDeadlineExceeded"
    assert "Connection refused" in life.message


def test_a_claim_that_binds_with_its_first_consumer_does_not_hide_the_missing_gpu() -> None:
    reason, message = pending(claim("movie-sentiment-7d2c1e8a", bound=False), pod(unschedulable=NO_GPU))
    assert reason == "Unschedulable"
    assert "nvidia.com/gpu" in message


def test_a_claim_has_half_a_minute_to_be_bound_before_anything_is_said() -> None:
    assert pending(claim(bound=False), pod(), at=29)[0] == "Accepted"
    assert pending(claim(bound=False), pod(), at=30)[0] == "ClaimNotBound"
    assert pending(claim(bound=False), pod(unschedulable=NO_CLAIM), at=29)[0] == "Accepted"
    assert pending(claim(bound=False), pod(unschedulable=NO_CLAIM), at=30)[0] == "ClaimNotBound"
    assert pending(claim(), pod(unschedulable=NO_CLAIM), at=29)[0] == "Accepted"
    assert pending(claim(), pod(unschedulable=NO_CLAIM), at=30)[0] == "Unschedulable"


def test_a_job_with_credentials_is_told_of_the_secret_that_may_be_missing() -> None:
    model = {"uri": "hf://org/base", "credentials": {"secretName": "hub"}}
    message = pending(pod(node="n1", waiting_reason="ContainerCreating"), model=model)[1]
    assert (
        "is starting on node n1; if it stays so, Secret hub (model.credentials.secretName) or its key token"
        in message
    )
    assert message.endswith(
        "may be missing in namespace default: kubectl describe pod pod-a1 -n default shows why"
    )
    assert "Secret" not in pending(pod(node="n1"), at=29, model=model)[1]
    assert "Secret" not in pending(pod(), model=model)[1]


def test_a_scheduler_that_says_nothing_for_half_a_minute_is_named() -> None:
    other: dict[str, Any] = {"scheduling": {"schedulerName": "volcano"}}
    assert pending(pod(), at=29, **other)[0] == "Accepted"
    assert pending(pod(created=seconds(40)), at=69, **other)[0] == "Accepted"
    reason, message = pending(pod(created=seconds(30)), at=60, **other)
    assert reason == "Unschedulable"
    assert message == (
        "no scheduler has taken the pod pod-a1: check that volcano (scheduling.schedulerName) runs in this cluster"
    )
    assert pending(pod(node="n1"), **other)[0] == "Starting"


def test_a_job_that_no_node_takes_for_an_hour_is_written_once_and_visited_ever_less_often() -> None:
    life = Life(parsed(resources={"gpusPerNode": 1}))
    life.reconcile()
    statuses, pauses, at = set[str](), list[float](), 60.0
    while at < 3600:
        decision = life.reconcile(seen(child(), pod(unschedulable=NO_GPU)), at=at)
        statuses.add(str(decision.status.to_json()))
        assert decision.requeue_at
        pauses.append((decision.requeue_at - seconds(at)).total_seconds())
        at += pauses[-1]
    assert (life.phase, life.reason, len(statuses)) == ("Pending", "Unschedulable", 1)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (15, 300)
    assert len(pauses) < 25


NO_MATCH = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."


@pytest.mark.parametrize(
    ("scheduling", "required", "says"),
    [
        (
            {"nodeSelector": {"gpu": "a100"}},
            {},
            "scheduling.nodeSelector asks for labels that no such node has",
        ),
        (None, {"pool": "training"}, "the administrator requires nodes with pool=training"),
        (None, {}, "didn't match Pod's node affinity/selector"),
    ],
    ids=["the job", "the administrator", "nobody that we know"],
)
def test_who_keeps_a_pod_from_the_nodes_is_said(
    scheduling: dict[str, Any] | None, required: dict[str, str], says: str
) -> None:
    life = Life(parsed(scheduling=scheduling), settings(node_selector=required))
    life.reconcile()
    life.reconcile(seen(child(), pod(unschedulable=NO_MATCH)), at=60)
    assert life.message.endswith(says)


def test_nodes_that_a_job_keeps_away_from_are_said_where_no_other_fits() -> None:
    life = Life(settings=settings(retry_backoff=0))
    life.reconcile()
    for attempt, node in enumerate(("n1", "n1", "n2"), 1):
        life.reconcile(over(139, attempt, node=node), at=attempt * 10)
        life.reconcile(at=attempt * 10 + 1)
    life.reconcile(seen(child(4), pod(4, unschedulable=NO_MATCH)), at=100)
    assert life.message.endswith("it keeps away from n1, where attempts failed (status.excludedNodes)")


def test_a_missing_object_is_told_at_once() -> None:
    assert pending(claim(exists=False), at=0)[0] == "MissingObject"


def test_the_pod_that_counts_is_the_living_one() -> None:
    assert "pod-b" in pending(pod(deleted=True), pod(name="pod-b"))[1]


def test_a_scheduler_s_long_answer_leaves_room_for_the_remedy() -> None:
    _, message = pending(pod(unschedulable=NO_GPU + " node(s) had a taint." * 200))
    assert len(message) <= 1024
    assert message.endswith("set resources.gpusPerNode: 0 to train on CPU")


QUOTA = 'Error creating: pods "a" is forbidden: exceeded quota: q, requested: requests.cpu=4'


def refused(*views: View) -> tuple[str, str]:
    life = Life()
    life.reconcile()
    life.reconcile(replace(seen(child(), *views), pod_refusal=QUOTA), at=60)
    return life.reason, life.message


@pytest.mark.parametrize(
    "views", [[], [claim(bound=False)]], ids=["plain", "with a claim that waits for its pod"]
)
def test_a_refused_pod_is_reported_with_the_words_of_who_refuses_it(views: list[View]) -> None:
    reason, message = refused(*views)
    assert reason == "ChildRefused"
    assert f"the pod of Job movie-sentiment-7d2c1e8a-a1 is refused: {QUOTA}" in message


def test_a_missing_claim_comes_before_a_refused_pod() -> None:
    assert refused(claim(exists=False))[0] == "MissingObject"


def test_once_there_is_a_pod_an_old_refusal_says_nothing() -> None:
    assert refused(pod(unschedulable=NO_GPU))[0] == "Unschedulable"


def test_a_very_long_refusal_fits_the_status() -> None:
    life = Life()
    life.reconcile()
    life.reconcile(replace(seen(child()), pod_refusal="x" * 5000), at=60)
    assert len(life.message) <= 1024
