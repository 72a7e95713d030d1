"""Who leads: what a Lease says, and what follows from it. Pure; a time is a number of seconds on one's own clock.

As in client-go, no clock is compared with another machine's: a holder is trusted for as long after its last *change*
of the Lease as its lease lasts, on the clock of whoever looks. A holder stops five seconds before that.

    standby ── nobody holds it, or its holder has not changed it for 15 s ──► leader ── renewed every 2 s
       ▲                                                                        │
       └── a new process ◄── ends: another holds it, or 10 s without a renewal ─┘
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

LEASE_SECONDS = 15.0
"""After its last change of the Lease a holder is trusted for this long."""
RENEW_SECONDS = 10.0
"""A leader without a renewal for this long leads no more."""
RETRY_SECONDS = 2.0
"""Between two looks, and between two renewals."""
LONGEST_SECONDS = 60.0
"""However long a lease is said to last, it is trusted for no longer."""
_RELEASED_SECONDS = 1
_MOST_TRANSITIONS = 2**31 - 1
_ADDRESS = "finetune.dev/progress-address"

Body = dict[str, Any]


class Step(Enum):
    """What to do about a Lease."""

    TAKE = auto()
    """Write it: lead, or go on leading."""
    WAIT = auto()
    """Another leads, or may still."""
    END = auto()
    """Another has taken it from us."""


@dataclass(frozen=True)
class Claim:
    """What a Lease says. An empty holder has released it; its times are for people only."""

    holder: str = ""
    seconds: float = LEASE_SECONDS
    renewed: str = ""
    transitions: int = 0
    address: str | None = None

    @classmethod
    def of(cls, body: Body) -> "Claim":
        """Anybody with the right may have written it: what is missing counts as empty."""
        spec, annotations = body.get("spec") or {}, body["metadata"].get("annotations") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            seconds=float(spec.get("leaseDurationSeconds") or LEASE_SECONDS),
            renewed=spec.get("renewTime") or "",
            transitions=spec.get("leaseTransitions") or 0,
            address=annotations.get(_ADDRESS),
        )

    @property
    def trusted_for(self) -> float:
        """Seconds after its last change for which nobody else may lead."""
        least = LEASE_SECONDS if self.holder else _RELEASED_SECONDS
        return min(max(self.seconds, least), LONGEST_SECONDS)


@dataclass(frozen=True)
class Sight:
    """A claim, and when this process first saw it. It may be `gone`: somebody deleted the Lease."""

    claim: Claim
    since: float
    gone: bool = False

    @property
    def expires(self) -> float:
        """When it is no longer trusted."""
        return self.since + self.claim.trusted_for


def look(before: Sight | None, found: Body | None, now: float) -> Sight | None:
    """What is known after a look.

    A Lease that was deleted frees nobody at once: its holder goes on, and creates it again. Only a process that has
    never seen one takes a missing Lease, as at the very first start.
    """
    if found is None and before is None:
        return None
    claim = Claim.of(found) if found else before.claim if before else Claim()
    sight = Sight(claim, now, gone=found is None)
    return before if before and (before.claim, before.gone) == (claim, sight.gone) else sight


def decide(sight: Sight | None, identity: str, now: float, *, leads: bool) -> Step:
    """What to do; `leads` says whether this process is the leader."""
    if sight is None:
        return Step.TAKE
    ours = sight.claim.holder == identity
    if leads:
        return Step.TAKE if ours or not sight.claim.holder else Step.END
    return Step.TAKE if (ours and not sight.gone) or now >= sight.expires else Step.WAIT


def held(body: Body, identity: str, address: str | None, now: datetime) -> Body:
    """The Lease as its holder writes it. `body` is the stored one, or has namespace and name only."""
    before, spec = Claim.of(body), body.get("spec") or {}
    begins = before.holder != identity
    moment = _moment(now)
    wanted = {
        "holderIdentity": identity,
        "leaseDurationSeconds": int(LEASE_SECONDS),
        "acquireTime": moment if begins else spec.get("acquireTime") or moment,
        "renewTime": moment,
        "leaseTransitions": min(before.transitions + (1 if begins and spec else 0), _MOST_TRANSITIONS),
    }
    annotations = {k: v for k, v in (body["metadata"].get("annotations") or {}).items() if k != _ADDRESS}
    if address:
        annotations[_ADDRESS] = address
    return _lease(body, annotations, wanted)


def released(body: Body, now: datetime) -> Body:
    """The Lease as its holder leaves it: free for whoever looks next."""
    spec = dict(body.get("spec") or {})
    spec.pop("holderIdentity", None)
    freed = {"leaseDurationSeconds": _RELEASED_SECONDS, "renewTime": _moment(now)}
    annotations = {k: v for k, v in (body["metadata"].get("annotations") or {}).items() if k != _ADDRESS}
    return _lease(body, annotations, spec | freed)


def _lease(body: Body, annotations: dict[str, str], spec: Body) -> Body:
    kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    return kind | {"metadata": body["metadata"] | {"annotations": annotations}, "spec": spec}


def _moment(now: datetime) -> str:
    return f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
