"""Claims of a job on several nodes, before its pods hold GPUs: each has to be mounted by all of them. Pure."""

from finetune_api import uris
from finetune_core.decide.context import Context
from finetune_core.decide.observation import InputView
from finetune_core.plan.nodes import count_of, on_one_machine


def why_not_shared(context: Context) -> str | None:
    """The first claim that the pods of the next attempt cannot all mount, with the remedy; None for none."""
    count = 1 if context.job.is_parent else count_of(context.resolved.resources)
    if count == 1:
        return None
    output = uris.parse(context.resolved.output_uri).name
    found = (_refusal(context, item, count, output) for item in context.observation.inputs)
    return next((reason for reason in found if reason), None)


def _refusal(context: Context, item: InputView, count: int, output: str) -> str | None:
    """A claim that does not exist yet is waited for later; one that only lists ReadWriteOncePod is for one pod."""
    modes = set(item.access_modes)
    wanted = {"ReadWriteMany"} if item.name == output else {"ReadWriteMany", "ReadOnlyMany"}
    if on_one_machine(context.job):
        wanted |= {"ReadWriteOnce"}
    if item.kind != "PersistentVolumeClaim" or not modes or modes & wanted:
        return None
    pinned = (
        ""
        if "ReadWriteOnce" in wanted
        else ", or keep all pods on one machine by scheduling.topologyKey: kubernetes.io/hostname"
    )
    return (
        f"resources.nodes is {count}, and the claim {item.name} has the access mode {', '.join(sorted(modes))}, with"
        f" which its pods cannot all mount it: use a claim with ReadWriteMany{pinned}"
    )
