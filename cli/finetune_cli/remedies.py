"""What to do about each reason of a job, as docs/troubleshooting.md has it. A test compares the two."""

from typing import NamedTuple

from finetune_api.status import Reason

PAGE = "docs/troubleshooting.md"


class Remedy(NamedTuple):
    """What to do, and the section of the page."""

    text: str
    section: str = "failed"


_LOG = "the message says what is known; finetune logs NAME has more"
REMEDIES = {
    Reason.MISSING_OBJECT: Remedy(
        "create the claim, ConfigMap, Secret or key that the message names; the job then continues automatically",
        "pending",
    ),
    Reason.CLAIM_NOT_BOUND: Remedy(
        "kubectl describe pvc shows what the claim waits for: a volume, a storage class", "pending"
    ),
    Reason.CLAIM_NOT_SHARED: Remedy(
        "use a claim with the access mode ReadWriteMany, or scheduling.topologyKey: kubernetes.io/hostname",
        "pending",
    ),
    Reason.OUTPUT_TAKEN: Remedy(
        "wait for the job that the message names, delete it, or create this job with another output.uri",
        "pending",
    ),
    Reason.UNSCHEDULABLE: Remedy(
        "no node fits, as the message says; resources.gpusPerNode: 0 trains on the CPU", "pending"
    ),
    Reason.QUEUED: Remedy(
        "the message quotes what the queue waits for; kubectl describe workloads shows more", "pending"
    ),
    Reason.STARTING: Remedy(
        "the image may be large, or a Secret missing: kubectl describe pod shows which", "pending"
    ),
    Reason.STOPPING: Remedy(
        "the trainer saves a checkpoint; if a finalizer or a pod without its Job delays that, the message says so",
        "pending",
    ),
    Reason.IMAGE_PULL_FAILED: Remedy("check spec.image and scheduling.imagePullSecrets", "pending"),
    Reason.WAITING_TO_RETRY: Remedy(
        "an attempt failed; the retry starts at the time in the message", "pending"
    ),
    Reason.CHILD_REFUSED: Remedy(
        "ask whoever refuses it, as the message quotes: a quota, a policy, a webhook; it is retried every 30 seconds",
        "pending",
    ),
    Reason.NOT_ALLOWED: Remedy(
        "suspend the job and use a PriorityClass or toleration that the message names as allowed", "pending"
    ),
    Reason.PENDING: Remedy("whoever set a scheduling gate removes it, for example a queue", "pending"),
    Reason.CHILD_NAME_CONFLICT: Remedy(
        "delete the object that the message names, or create the job under another name", "pending"
    ),
    Reason.INVALID_SPEC: Remedy(
        "change what the message names; if operator and CRD have different versions, upgrade both", "pending"
    ),
    Reason.CONFIGURATION_ERROR: Remedy("change the field that the message names, in a new job"),
    Reason.DATA_ERROR: Remedy(
        "fix the row that the message names, or raise dataset.maxInvalidRows; finetune data show prints the rows"
    ),
    Reason.NOT_FOUND: Remedy(
        "check the URI: is the path on the claim, does the folder contain config.json and *.safetensors? For hf://:"
        " name, revision, token"
    ),
    Reason.GPUS_NOT_SEEN: Remedy("check the driver, container toolkit and device plugin on the node"),
    Reason.TRAINER_FAULT: Remedy("a bug in the trainer: report it with the traceback in its log"),
    Reason.OUT_OF_MEMORY: Remedy("lower maxLength, freeze more layers, or use a larger GPU"),
    Reason.DIVERGED: Remedy("lower the learning rate, check the rows that the message names"),
    Reason.PEER_LOST: Remedy(
        "look at the other pods of the attempt: is one pending, does a network policy keep them apart?"
    ),
    Reason.PODS_APART: Remedy(
        "every pod trained alone: start the script with torchrun or accelerate launch, as docs/several-nodes.md shows"
    ),
    Reason.PRUNED: Remedy("nothing: other trials of the search are better"),
    Reason.GATE_NOT_PASSED: Remedy(
        "train longer, give more data or lower spec.gate, in a new job; the best checkpoint is kept"
    ),
    Reason.STORAGE_FAILED: Remedy(
        "free space or check access rights on the output volume; let the node mount the volume that the message names;"
        " remove the folder of a corrupted model; for hf://, check that the Hub can be reached"
    ),
    Reason.INTERRUPTED: Remedy("nothing: training resumes from the checkpoint"),
    Reason.PREEMPTED: Remedy("nothing: training resumes from the checkpoint"),
    Reason.DEADLINE_EXCEEDED: Remedy("create a new job with a longer activeDeadlineSeconds or fewer epochs"),
    Reason.STARTUP_DEADLINE_EXCEEDED: Remedy(
        "supply what the message names: an image, a Secret, a volume, a node; then create a new job"
    ),
    Reason.EVICTED: Remedy("raise resources.limits.ephemeral-storage, or write less to /tmp and $HOME"),
    Reason.REFUSED_BY_NODE: Remedy("nothing; if it goes on, show the message to the node's administrator"),
    Reason.NODE_LOST: Remedy("nothing: training resumes on another node from the checkpoint"),
    Reason.STALLED: Remedy(
        "the message says where rank 0 stood; the log and the file that it names have the stack of every process"
    ),
    Reason.GPU_FAULT: Remedy("NVIDIA's list of Xid errors says what the number means; check the node's GPU"),
    Reason.TRIALS_FAILED: Remedy(
        "look at the trial that the message names; search.maxFailedTrials says how many may fail"
    ),
    Reason.MEMBERS_FAILED: Remedy(
        "look at the member that the message names; ensemble.minMembers says how many must succeed"
    ),
    Reason.IMAGE_NOT_ALLOWED: Remedy(
        "use an image that the message names, or ask your administrator (trainer.allowedImages)"
    ),
    Reason.HOST_OUT_OF_MEMORY: Remedy(
        "raise resources.limits.memory, as the message says, or lower training.microBatchSize"
    ),
    Reason.KILLED: Remedy(_LOG),
    Reason.CRASHED: Remedy(_LOG),
    Reason.POD_LOST: Remedy(_LOG),
    Reason.SCRIPT_FAILED: Remedy(_LOG),
    Reason.UNKNOWN: Remedy(_LOG),
}
"""By the reasons of a job that has failed, or that is not running although it should."""


def remedy_of(reason: str) -> Remedy | None:
    """The remedy; None for a reason that needs none, or of a newer operator."""
    return next((remedy for known, remedy in REMEDIES.items() if known == reason), None)
