"""Claimed devices (DRA), before an attempt begins: how many GPUs they are, and that none is held for nothing. Pure."""

from collections.abc import Iterable

from finetune_api.resources import ResourcesSpec
from finetune_api.status import Phase, Reason
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import Context
from finetune_core.decide.observation import ClaimView
from finetune_core.decide.preflight import begun
from finetune_core.plan.claims import gpus_are_claimed, templates_of
from finetune_core.plan.finetunejob import FineTuneJob


def why_not_claimed(context: Context) -> Verdict | None:
    """Why nothing can begin with the devices that the job or, before they are there, its runs claim."""
    return fault_in(context.job, context.observation.claims) if _claims(context) else None


def unseen(context: Context) -> bool:
    """Whether nobody looked at the templates at this visit, as an attempt or a preflight was open when it began."""
    asked = templates_of(context.job.spec.resources)
    return bool(asked) and not context.observation.claims and _claims(context)


def with_claimed_devices(context: Context) -> ResourcesSpec:
    """The job's resources with the number of GPUs that its claims have."""
    resources = context.resolved.resources
    if not context.job.trains or not gpus_are_claimed(context.job.spec.resources):
        return resources
    number = sum(claim.devices.number for claim in context.observation.claims)
    return resources.model_copy(update={"gpus_per_node": number})


def fault_in(job: FineTuneJob, claims: Iterable[ClaimView]) -> Verdict | None:
    """What is wrong with the first claim that does not fit the job."""
    unfit = _uncounted if gpus_are_claimed(job.spec.resources) else _unused
    return next((found for claim in claims if (found := _missing(job, claim) or unfit(claim))), None)


def _claims(context: Context) -> bool:
    """Whether what begins next claims devices: an attempt that ends a search or an ensemble may claim none."""
    return context.job.trains or not begun(context.status)


def _missing(job: FineTuneJob, claim: ClaimView) -> Verdict | None:
    if claim.exists:
        return None
    message = (
        f"ResourceClaimTemplate {claim.template} does not exist in namespace {job.namespace}; create it and the job"
        " starts"
    )
    return Verdict(Phase.PENDING, Reason.MISSING_OBJECT, message)


def _uncounted(claim: ClaimView) -> Verdict | None:
    return _invalid(claim, claim.devices.problem) if claim.devices.problem else None


def _unused(claim: ClaimView) -> Verdict | None:
    if claim.accelerator is None:
        return None
    return _invalid(
        claim,
        f"it asks for devices of class {claim.accelerator}, which the job would hold while it trains on the CPU"
        " (gpusPerNode: 0); suspend the job, remove gpusPerNode to train on them, or remove the claim, and set"
        " spec.suspend to false",
    )


def _invalid(claim: ClaimView, problem: str) -> Verdict:
    message = f"spec.resources.claims: ResourceClaimTemplate {claim.template}: {problem}"
    return Verdict(Phase.PENDING, Reason.INVALID_SPEC, message, stalled=True)
