"""GPUs that are claimed (DRA): their number is that of the templates, and known before an attempt begins. Pure."""

from finetune_api.resources import ResourcesSpec
from finetune_api.status import Phase, Reason
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import Context
from finetune_core.decide.observation import ClaimView
from finetune_core.plan.claims import gpus_are_claimed


def why_devices_unknown(context: Context) -> Verdict | None:
    """Why the number of claimed GPUs is not known, or none is claimed."""
    if not claims_gpus(context):
        return None
    return next((found for claim in context.observation.claims if (found := _unknown(context, claim))), None)


def with_claimed_devices(context: Context) -> ResourcesSpec:
    """The job's resources with the number of GPUs that its claims have: the one before where nobody looked again."""
    resources = context.resolved.resources
    if not claims_gpus(context) or not context.observation.claims:
        return resources
    number = sum(claim.devices.number for claim in context.observation.claims)
    return resources.model_copy(update={"gpus_per_node": number})


def claims_gpus(context: Context) -> bool:
    """Whether the job's own attempt trains on claimed GPUs."""
    return context.job.trains and gpus_are_claimed(context.job.spec.resources)


def _unknown(context: Context, claim: ClaimView) -> Verdict | None:
    if not claim.exists:
        message = (
            f"ResourceClaimTemplate {claim.template} does not exist in namespace {context.job.namespace}; create it and"
            " the job starts"
        )
        return Verdict(Phase.PENDING, Reason.MISSING_OBJECT, message)
    if claim.devices.problem:
        message = f"spec.resources.claims: ResourceClaimTemplate {claim.template}: {claim.devices.problem}"
        return Verdict(Phase.PENDING, Reason.INVALID_SPEC, message, stalled=True)
    return None
