"""Check an installation, as `helm test` does: `python -m finetune_operator.selfcheck NAMESPACE RULES`.

RULES are the rules of the operator's role, as JSON; NAMESPACE is where a job is tried if the operator serves all.
Nothing is created: the API server checks objects with dryRun. Prints a line per check; ends with 1 if one fails.
"""

import asyncio
import json
import ssl
import sys
from collections.abc import Coroutine
from itertools import product
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from finetune_api import API_VERSION, KIND
from finetune_core.decide.decision import why_stalled
from finetune_core.plan.effective import resolve
from finetune_core.plan.reading import parse
from finetune_core.plan.workload import plan
from finetune_core.settings import OperatorSettings
from finetune_operator.cluster import Cluster
from finetune_operator.errors import OperatorError
from finetune_operator.progress import PATH
from finetune_operator.settings import load
from finetune_operator.tls import stored_certificate

_TIMEOUT = ClientTimeout(total=10)
_TRIES, _PAUSE = 12, 2.0
"""Another replica leads within 20 seconds."""
_NO_LEADER = 503
_STRANGER = {"Authorization": "Bearer none"}
_JOB = {
    "model": {"uri": "pvc://selfcheck/model"},
    "dataset": {"train": {"uri": "pvc://selfcheck/rows.jsonl"}},
    "objective": {"classification": {}},
}


class _FaultError(OperatorError):
    """What a check found, with the remedy."""


async def check(settings: OperatorSettings, namespace: str, rules: list[dict[str, Any]]) -> bool:
    """Run all checks and print what they find; whether all passed."""
    cluster = await Cluster.connect(settings, lambda verb, status: None)
    try:
        checks = [_definition(cluster), _progress(cluster, settings)]
        checks += [_rights(cluster, rules, place) for place in settings.namespaces or [""]]
        checks += [_dry_run(cluster, settings, place) for place in settings.namespaces or [namespace]]
        return all([await _passes(one) for one in checks])
    finally:
        await cluster.close()


async def _passes(one: Coroutine[Any, Any, str]) -> bool:
    try:
        sys.stdout.write(f"ok: {await one}\n")
    except (OperatorError, ClientError, TimeoutError) as error:
        sys.stdout.write(f"FAILED: {error or type(error).__name__}\n")
        return False
    return True


async def _definition(cluster: Cluster) -> str:
    if not await cluster.serves_finetunejobs():
        raise _FaultError(f"the API server does not serve {API_VERSION}: install the CRD (crds.enabled=true)")
    return f"the API server serves {API_VERSION}"


async def _rights(cluster: Cluster, rules: list[dict[str, Any]], namespace: str) -> str:
    wanted = [
        right for rule in rules for right in product(rule["verbs"], rule["apiGroups"], rule["resources"])
    ]
    missing = [
        f"{verb} {resource}"
        for verb, group, resource in wanted
        if not await cluster.allowed(verb, group, resource, namespace)
    ]
    where = f"in namespace {namespace}" if namespace else "in all namespaces"
    if missing:
        raise _FaultError(f"the operator may not {', '.join(missing)} {where}: upgrade the release again")
    return f"the operator has its {len(wanted)} rights {where}"


async def _dry_run(cluster: Cluster, settings: OperatorSettings, namespace: str) -> str:
    """A FineTuneJob and everything that its first attempt consists of."""
    meta = {"name": "selfcheck", "namespace": namespace}
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": _JOB}
    job = parse(await cluster.create("FineTuneJob", body, dry_run=True))
    resolved = resolve(job, settings)
    if stalled := why_stalled(job, resolved, settings):
        raise _FaultError(f"a job with default settings cannot run: {stalled.message}")
    wanted = plan(job, resolved, 1, settings, "")
    for one in (wanted.claim, wanted.config_map, wanted.job):
        if one:
            await cluster.create(one["kind"], one, dry_run=True)
    return f"a FineTuneJob, its claim and Job are accepted in namespace {namespace}"


async def _progress(cluster: Cluster, settings: OperatorSettings) -> str:
    if not settings.progress_url or not settings.tls_secret:
        return "training pods report no progress (progress.enabled=false)"
    kept = await stored_certificate(settings.tls_secret, cluster)
    if kept is None:
        raise _FaultError(
            f"the Secret {settings.tls_secret} has no certificate: the operator makes it at its start; "
            "look at the operator's log"
        )
    tls = TCPConnector(ssl=ssl.create_default_context(cadata=kept.authority))
    async with ClientSession(connector=tls, timeout=_TIMEOUT) as session:
        for _ in range(_TRIES):
            async with session.post(settings.progress_url + PATH, headers=_STRANGER) as answer:
                status, said = answer.status, await answer.text()
            if status != _NO_LEADER:
                break
            await asyncio.sleep(_PAUSE)
    if status == _NO_LEADER:
        raise _FaultError(f"{settings.progress_url} answers: {said}; look at the operator's log")
    if status != 401:
        raise _FaultError(f"{settings.progress_url} answers {status} to a stranger instead of 401")
    return f"pods reach the operator at {settings.progress_url}"


def main() -> int:
    """Check the installation that the environment describes."""
    if len(sys.argv) != 3:
        sys.stderr.write("usage: python -m finetune_operator.selfcheck NAMESPACE RULES\n")
        return 2
    _, namespace, rules = sys.argv
    try:
        passed = asyncio.run(check(load(), namespace, json.loads(rules)))
    except OperatorError as error:
        sys.stderr.write(f"finetune-operator: {error}\n")
        return 1
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
