"""The best trial of a search as a FineTuneJob that can be applied."""

from typing import Any

from finetune_api import API_VERSION, GROUP, KIND
from finetune_cli.errors import CommandError
from finetune_sdk import Client
from finetune_sdk.errors import NotFoundError

Body = dict[str, Any]


def best_of(client: Client, name: str) -> Body:
    """The winner of a search. Raises CommandError if there is none."""
    parent = client.get(name).body
    if "search" not in parent["spec"]:
        raise CommandError(f"FineTuneJob {name} has no spec.search; only a search has a best trial")
    best = ((parent.get("status") or {}).get("trials") or {}).get("best")
    if not best:
        raise CommandError(
            f"no trial of {name} has succeeded yet; finetune status {name} shows how far it is"
        )
    try:
        trial = client.get(best["name"]).body
    except NotFoundError as error:
        values = ", ".join(f"{path}={value}" for path, value in best.get("parameters", {}).items())
        raise CommandError(f"the best trial {best['name']} was deleted; its values were {values}") from error
    return job_of(name, best, trial)


def job_of(name: str, best: Body, trial: Body) -> Body:
    """A FineTuneJob with the best trial's spec and the default output. It holds out the same rows."""
    spec = dict(trial["spec"])
    output = {key: value for key, value in (spec.pop("output", None) or {}).items() if key != "uri"}
    note = f"trial {best['number']} of search {name}"
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": f"{name}-best", "annotations": {f"{GROUP}/best-of": note}},
        "spec": spec | ({"output": output} if output else {}),
    }
