"""The operator's cache: the newest version of every FineTuneJob and child that it has seen.

Fed by watch events, by our own LISTs and by the answers to our own writes; the higher resourceVersion wins, so a
late event never hides a write of ours. It is not a source of truth: a restart fills it again.

It keeps only what the operator reads: of a Job or Pod what decisions see of it, and of the pods of a job that has ended
none of their words. Users decide how large objects are, so annotations, pod specs and large specs of FineTuneJobs are
dropped. What thousands of jobs have alike is kept once
(`sharing.py`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pydantic_core import to_json

from finetune_api import KIND
from finetune_core.decide.observation import JobView, OutputHolder, PodView
from finetune_core.plan.kueue import kueue_annotations, kueue_labels
from finetune_core.plan.naming import (
    JOB_NAME,
    JOB_UID,
    MEMBER,
    PARENT_UID,
    REPEAT,
    TRIAL,
    Run,
    name_in,
    parent_in,
)
from finetune_core.wire import at
from finetune_operator.outputs import Outputs
from finetune_operator.sharing import Sharing
from finetune_operator.views import job_view, labels_in, pod_view

Body = dict[str, Any]

_IDENTITY = ("name", "namespace", "uid", "resourceVersion", "generation", "deletionTimestamp")
_LARGEST_SPEC = 32 * 1024
_IDENTITY_OF_JOBS = (*_IDENTITY, "creationTimestamp")
_LABELS_OF_JOBS = (PARENT_UID, TRIAL, REPEAT, MEMBER)


class Key(NamedTuple):
    """Identifies a FineTuneJob for the queue."""

    namespace: str
    name: str


class Id(NamedTuple):
    """Identifies an object of a kind."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Child:
    """A Job or Pod of an attempt, as decisions see it; `deleted` once it was.

    The end of a pod is kept until its attempt is closed. An older answer that arrives after the deletion is ignored.
    """

    at: Id
    uid: str
    version: int
    owner: str
    """The uid of the FineTuneJob that its labels name."""
    key: Key
    """Its key."""
    view: JobView | PodView
    deleted: bool = False

    def without_words(self) -> "Child":
        """A copy without what anybody said of it, which fills the status of its job."""
        return replace(self, view=self.view.without_words()) if isinstance(self.view, PodView) else self

    def same_as(self, other: "Child | None") -> bool:
        """Whether a decision would see the same."""
        return other is not None and (self.uid, self.deleted, self.view) == (
            other.uid,
            other.deleted,
            other.view,
        )


@dataclass
class Cache:
    """FineTuneJobs by key; Jobs and Pods by the uid of the FineTuneJob in their labels.

    A FineTuneJob whose spec is too large to keep is here without it. `unserved` has the namespaces whose last LIST
    failed, and why: the operator does not act on their objects. `on_change` gets what was known of a FineTuneJob and
    what replaces it, `on_drop` the uid of one that is gone.
    """

    finetunejobs: dict[Key, Body] = field(default_factory=dict)
    unserved: dict[str, str] = field(default_factory=dict)
    on_change: Callable[[Body, Body], None] | None = None
    on_drop: Callable[[str], None] | None = None
    children: dict[str, dict[str, dict[Id, Child]]] = field(default_factory=lambda: {"Job": {}, "Pod": {}})
    _pods: dict[str, Child] = field(default_factory=dict)
    _settled: dict[Key, str] = field(default_factory=dict)
    _runs: dict[str, dict[Key, Run]] = field(default_factory=dict)
    _outputs: Outputs = field(default_factory=Outputs)
    _sharing: Sharing = field(default_factory=Sharing)

    def put_finetunejob(self, body: Body) -> Key:
        """Keep a FineTuneJob, if it is newer than what is known."""
        key = Key(*id_of(body))
        known = self.finetunejobs.get(key)
        if known is None or _version(body) > _version(known):
            if known is not None:
                self._forget_run(key, known)
                self._outputs.forget(known)
            self.finetunejobs[key] = kept = _kept_finetunejob(body, known, self._sharing)
            if found := parent_in(kept["metadata"]):
                self._runs.setdefault(found.uid, {})[key] = found.run
            self._outputs.keep(kept)
            if known is not None and uid_of(known) != uid_of(body):
                self._forget_job(uid_of(known))
            elif known is not None:
                if has_ended(known) and not has_ended(kept):  # somebody edited the status
                    self._forget_children(uid_of(body), ("Pod",))  # they are listed again, with their words
                if self.on_change:
                    self.on_change(known, kept)
            if has_ended(kept):
                self._forget_words(uid_of(kept))
        return key

    def _forget_words(self, uid: str) -> None:
        for child in list(self.children["Pod"].get(uid, {}).values()):
            self._store("Pod", child.without_words())

    def put_settled(self, body: Body) -> None:
        """Keep a FineTuneJob whose reconcile wrote its status: the event of it brings nothing new."""
        self.put_finetunejob(body)
        self.settle(body)

    def settle(self, body: Body) -> None:
        """Note that this version of a FineTuneJob was reconciled."""
        self._settled[Key(*id_of(body))] = body["metadata"]["resourceVersion"]

    def settled(self, body: Body) -> bool:
        """Whether this version of the FineTuneJob is the last that was reconciled, or that its reconcile wrote."""
        version: str = body["metadata"]["resourceVersion"]
        return self._settled.get(Key(*id_of(body))) == version

    def drop_finetunejob(self, body: Body) -> Key:
        """Forget a deleted FineTuneJob, unless one of the same name was created since."""
        key = Key(*id_of(body))
        known = self.finetunejobs.get(key)
        if known is not None and uid_of(known) == uid_of(body):
            del self.finetunejobs[key]
            self._settled.pop(key, None)
            self._forget_run(key, known)
            self._outputs.forget(known)
        self._forget_job(uid_of(body))
        return key

    def _forget_job(self, uid: str) -> None:
        self._forget_children(uid)
        if self.on_drop:
            self.on_drop(uid)

    def _forget_run(self, key: Key, body: Body) -> None:
        if found := parent_in(body["metadata"]):
            siblings = self._runs.get(found.uid, {})
            siblings.pop(key, None)
            if not siblings:
                self._runs.pop(found.uid, None)

    def output_holder(self, key: Key) -> OutputHolder | None:
        """The FineTuneJob that goes first of those that cannot publish with this one; None if this one does."""
        body = self.finetunejobs.get(key)
        first = self._outputs.before(body) if body else None
        return OutputHolder(first.name, first.uri) if first else None

    def first_for_output_of(self, body: Body) -> Key | None:
        """The key of the unfinished FineTuneJob that goes first of those that cannot publish with this one."""
        first = self._outputs.first(body)
        return Key(body["metadata"]["namespace"], first.name) if first else None

    def runs_of(self, namespace: str, uid: str) -> dict[Run, Body]:
        """The runs of a search or an ensemble, without those that are being deleted."""
        return {
            run: self.finetunejobs[key]
            for key, run in self._runs.get(uid, {}).items()
            if key.namespace == namespace and "deletionTimestamp" not in self.finetunejobs[key]["metadata"]
        }

    def has_runs(self, uid: str) -> bool:
        """Whether a FineTuneJob with this uid has runs."""
        return uid in self._runs

    def awaits_child(self, key: Key) -> bool:
        """Whether a FineTuneJob has neither ended nor a child, whether or not its status names one already."""
        body = self.finetunejobs.get(key)
        if body is None or has_ended(body):
            return False
        uid = uid_of(body)
        return not self.jobs_of(key.namespace, uid) and uid not in self._runs

    def _forget_children(self, owner: str, kinds: Iterable[str] = ("Job", "Pod")) -> None:
        for kind in kinds:
            for identity in list(self.children[kind].get(owner, {})):
                self._remove(kind, owner, identity)

    def _store(self, kind: str, child: Child) -> None:
        known = self.children[kind].setdefault(child.owner, {})
        self._forget_uid(known.get(child.at))
        known[child.at] = child
        if kind == "Pod":
            self._pods[child.uid] = child

    def _remove(self, kind: str, owner: str, at: Id) -> None:
        known = self.children[kind].get(owner, {})
        self._forget_uid(known.pop(at, None))
        if not known:
            self.children[kind].pop(owner, None)

    def _forget_uid(self, child: Child | None) -> None:
        if child and self._pods.get(child.uid) is child:
            del self._pods[child.uid]

    def put_child(self, kind: str, body: Body) -> Key | None:
        """Keep a Job or Pod, if it is newer than what is known.

        Returns the FineTuneJob's key if a decision would see something else than before.
        """
        owner, key = owner_of(body)
        if owner is None or key is None:
            return None
        before = self.children[kind].get(owner, {}).get(id_of(body))
        if before is not None and _version(body) <= before.version:
            return None
        if (before is None or before.uid != uid_of(body)) and not controlled(kind, body):
            return None  # a copy with our labels, made by hand
        child = _child(kind, body, owner, key)
        if any(uid_of(one) == owner and has_ended(one) for one in self._known(key)):
            child = child.without_words()
        self._store(kind, child)
        return None if child.same_as(before) else key

    def drop_child(self, kind: str, body: Body) -> Key | None:
        """Note that a Job or Pod was deleted; returns the FineTuneJob's key."""
        owner, key = owner_of(body)
        before = self.children[kind].get(owner or "", {}).get(id_of(body))
        if owner is None or key is None or before is None or before.uid != uid_of(body):
            return key
        self._drop(kind, _child(kind, body, owner, key) if _version(body) >= before.version else before)
        return key

    def _drop(self, kind: str, last: Child) -> None:
        if last.owner not in map(uid_of, self._known(last.key)):
            self._remove(kind, last.owner, last.at)  # its FineTuneJob went first
            return
        view = replace(last.view, deleted=True) if isinstance(last.view, PodView) else last.view
        self._store(kind, replace(last, view=view, deleted=True))

    def _known(self, key: Key) -> list[Body]:
        return [self.finetunejobs[key]] if key in self.finetunejobs else []

    def jobs_of(self, namespace: str, uid: str) -> tuple[JobView, ...]:
        """The Jobs of a FineTuneJob that exist."""
        found = self._of("Job", namespace, uid)
        return tuple(one.view for one in found if isinstance(one.view, JobView) and not one.deleted)

    def pods_of(self, namespace: str, uid: str) -> tuple[PodView, ...]:
        """The pods of a FineTuneJob, deleted ones included."""
        return tuple(one.view for one in self._of("Pod", namespace, uid) if isinstance(one.view, PodView))

    def _of(self, kind: str, namespace: str, uid: str) -> list[Child]:
        """Labels may name a FineTuneJob in another namespace; only objects in the same namespace count."""
        found = self.children[kind].get(uid, {})
        return [child for at, child in found.items() if at.namespace == namespace]

    def pod(self, uid: str) -> Child | None:
        """The pod with this uid, if it exists."""
        pod = self._pods.get(uid)
        return pod if pod and not pod.deleted else None

    def forget_deleted(self, uid: str) -> None:
        """Forget what was deleted: its attempt is closed."""
        for kind in self.children:
            for identity, child in list(self.children[kind].get(uid, {}).items()):
                if child.deleted:
                    self._remove(kind, uid, identity)

    def drop_unlisted(self, keys: Iterable[Key]) -> None:
        """Forget FineTuneJobs that were known before a LIST and are not in it."""
        for key in keys:
            if body := self.finetunejobs.get(key):
                self.drop_finetunejob(body)
        self._forget_orphans()

    def _forget_orphans(self) -> None:
        """Drop children whose FineTuneJob is gone: their last events arrive after its deletion."""
        living = {uid_of(body) for body in self.finetunejobs.values()}
        for owner in {owner for kind in self.children.values() for owner in kind} - living:
            self._forget_children(owner)

    def drop_unlisted_children(self, kind: str, uids: set[str]) -> None:
        """The same for Jobs or Pods, by their uids."""
        for known in list(self.children[kind].values()):
            for child in list(known.values()):
                if not child.deleted and child.uid in uids:
                    self._drop(kind, child)

    def newest(self, kind: str, namespace: str | None) -> int:
        """The highest resourceVersion of a kind that is known in a namespace, or in all; 0 without any."""
        if kind == "FineTuneJob":
            return max((_version(self.finetunejobs[key]) for key in self.keys_in(namespace)), default=0)
        known = (child for family in self.children[kind].values() for child in family.values())
        return max((one.version for one in known if namespace in (None, one.at.namespace)), default=0)

    def keys_in(self, namespace: str | None) -> set[Key]:
        """The keys of all known FineTuneJobs, or of those of one namespace."""
        return {key for key in self.finetunejobs if namespace in (None, key.namespace)}

    def uids_in(self, namespace: str | None, kind: str) -> set[str]:
        """The uids of all known Jobs or Pods, or of those of one namespace."""
        return {
            child.uid
            for known in self.children[kind].values()
            for at, child in known.items()
            if namespace in (None, at.namespace)
        }


def id_of(body: Body) -> Id:
    """Namespace and name."""
    return Id(body["metadata"]["namespace"], body["metadata"]["name"])


def uid_of(body: Body) -> str:
    """The uid."""
    uid: str = body["metadata"]["uid"]
    return uid


def has_ended(body: Body) -> bool:
    """Whether a FineTuneJob has ended."""
    return bool(at(body, "status", "completionTime"))


def owner_of(body: Body) -> tuple[str | None, Key | None]:
    """The uid and key of the FineTuneJob that a child's labels name."""
    labels = labels_in(body)
    owner, name = labels.get(JOB_UID), labels.get(JOB_NAME)
    return (owner, Key(body["metadata"]["namespace"], name)) if owner and name else (None, None)


def controlled(kind: str, body: Body) -> bool:
    """Whether the object has the name and the controller that its labels ask for: our FineTuneJob, or its Job.

    Any user can write labels. They count only on objects that the operator could have created.
    """
    labels, references = labels_in(body), body["metadata"].get("ownerReferences")
    name = name_in(labels)
    if name is None or (kind == "Job" and body["metadata"]["name"] != name):
        return False
    if kind == "Pod" and _left_by(name, body):
        return True
    wanted = {
        "Job": {"kind": KIND, "uid": labels[JOB_UID]},
        "Pod": {"kind": "Job", "name": name},
    }[kind] | {"controller": True}
    return any(
        isinstance(reference, dict) and wanted.items() <= reference.items()
        for reference in (references if isinstance(references, list) else [])
    )


def _left_by(job: str, pod: Body) -> bool:
    """Whether a pod without owner was made by the Job of this name, which was then deleted without it."""
    meta = pod["metadata"]
    prefix = meta.get("generateName")
    made = isinstance(prefix, str) and prefix.startswith(f"{job}-") and meta["name"].startswith(prefix)
    return made and not meta.get("ownerReferences")


def _version(body: Body) -> int:
    """Resource versions are comparable numbers (KEP-5504), also between objects of one kind."""
    return int(body["metadata"]["resourceVersion"])


def parent_key(body: Body) -> Key | None:
    """The key of the search or ensemble that a FineTuneJob is a run of."""
    found = parent_in(body["metadata"])
    return Key(body["metadata"]["namespace"], found.name) if found else None


def _kept_finetunejob(body: Body, known: Body | None, sharing: Sharing) -> Body:
    metadata, labels = _identity(body, _IDENTITY_OF_JOBS), labels_in(body)
    if parent_in(body["metadata"]):
        metadata |= {"ownerReferences": _controllers(body)}
    kept_labels = {name: labels[name] for name in _LABELS_OF_JOBS if name in labels}
    if kept_labels := kept_labels | kueue_labels(body["metadata"]):
        metadata["labels"] = kept_labels
    if annotations := kueue_annotations(body["metadata"]):
        metadata["annotations"] = dict.fromkeys(annotations, "")  # only that they are there is of interest
    kept = {"metadata": metadata}
    if "status" in body:
        kept["status"] = sharing.shared(body["status"])
    if known is not None and _has_spec_of(known, body):
        return kept | {"spec": known["spec"]}
    spec = body.get("spec")
    return kept if len(to_json(spec)) > _LARGEST_SPEC else kept | {"spec": sharing.shared(spec)}


def _has_spec_of(known: Body, body: Body) -> bool:
    """Whether the spec that is known is that of `body`: with each change of it the generation rises."""
    generation = body["metadata"].get("generation")
    same = (uid_of(known), known["metadata"].get("generation")) == (uid_of(body), generation)
    return same and generation is not None and "spec" in known


def _child(kind: str, body: Body, owner: str, key: Key) -> Child:
    view = job_view(body) if kind == "Job" else pod_view(body)
    return Child(id_of(body), uid_of(body), _version(body), owner, key, view)


def _controllers(body: Body) -> list[Body]:
    references = body["metadata"].get("ownerReferences") or []
    return [one for one in references if isinstance(one, dict) and one.get("controller")]


def _identity(body: Body, names: Iterable[str]) -> Body:
    return {name: body["metadata"][name] for name in names if name in body["metadata"]}
