"""The requests of our operator by a client that does nothing else: what the API server itself allows on this machine.

For each job a client sends what the operator sends until there is a child Job, one request after the other: the status
with the attempt, the ConfigMap if it needs one, the Job, and the Event. It watches nothing, decides nothing and reads
nothing again.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from builders import stored
from finetune_core.decide.decision import decide
from finetune_core.decide.observation import Observation
from finetune_core.plan.effective import resolve
from finetune_core.plan.reading import parse
from finetune_core.plan.workload import plan
from finetune_core.settings import OperatorSettings
from finetune_operator.events import transitions
from integration.operator_rig import CHILDREN, CONFIG_MAPS, EVENTS, JOBS, Rest

Json = dict[str, Any]

_NAME, _UID, _VERSION = "name-of-the-job", "00000000-0000-4000-8000-000000000000", "987654321"


def send(
    rest: Rest, job: Json, number: int, clients: int, settings: OperatorSettings, namespace: str
) -> Json:
    """POST N jobs named like this one and what follows, by some clients at a time; children per second."""
    template = json.dumps(_requests(job, settings, namespace))

    def live(index: int) -> None:
        name = f"bare-{index:05}"
        made = rest("POST", JOBS.format(namespace), job | {"metadata": {"name": name}})["metadata"]
        text = template.replace(_UID, made["uid"]).replace(_UID[:8], made["uid"][:8])
        text = text.replace(_NAME, name).replace(_VERSION, made["resourceVersion"])
        for verb, path, body in json.loads(text):
            rest(verb, path, body)

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(live, range(number)))
    seconds = time.perf_counter() - start
    return {"bareChildrenPerSecond": round(number / seconds, 1), "bareLastChild": round(seconds, 2)}


def _requests(job: Json, settings: OperatorSettings, namespace: str) -> list[tuple[str, str, Json]]:
    """Verb, path and body of each request that follows the POST of the job."""
    body = stored(job | {"metadata": {"name": _NAME}}, namespace=namespace, uid=_UID)
    body["metadata"]["resourceVersion"] = _VERSION
    parsed, now = parse(body), datetime.now(UTC)
    resolved = resolve(parsed, settings)
    status = decide(parsed, resolved, Observation(), now, settings).status
    wanted = plan(parsed, resolved, 1, settings, "")
    (event,) = transitions(body, parsed.status, status, now)
    metadata = {"namespace": namespace, "name": _NAME, "resourceVersion": _VERSION}
    written = {key: body[key] for key in ("apiVersion", "kind")} | {
        "metadata": metadata,
        "spec": {},
        "status": status.to_json(),
    }
    configs = [("POST", CONFIG_MAPS.format(namespace), wanted.config_map)] if wanted.config_map else []
    return [
        ("PUT", f"{JOBS.format(namespace)}/{_NAME}/status", written),
        *configs,
        ("POST", CHILDREN.format(namespace), wanted.job),
        ("POST", EVENTS.format(namespace), event.body()),
    ]
