"""From a FineTuneJob's wire form to the parsed job."""

import logging
from typing import Any

from finetune_api.base import AS_STORED
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_core import lenient
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.kueue import kueue_annotations, kueue_labels
from finetune_core.plan.naming import parent_in

logger = logging.getLogger(__name__)

Body = dict[str, Any]


def parse(body: Body) -> FineTuneJob:
    """A FineTuneJob from its wire form. Raises ValidationError when this operator cannot understand its spec."""
    meta = body["metadata"]
    parent = parent_in(meta)
    return FineTuneJob(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta["generation"],
        spec=FineTuneJobSpec.model_validate(body.get("spec") or {}, context=AS_STORED),
        status=status_of(body),
        parent_uid=parent.uid if parent else None,
        kueue_labels=kueue_labels(meta),
        kueue_annotations=tuple(kueue_annotations(meta)),
    )


def status_of(body: Body) -> FineTuneJobStatus:
    """The stored status, without parts that another client or version wrote and this one cannot parse."""
    status, left_out = lenient.read(FineTuneJobStatus, body.get("status") or {})
    if left_out:
        name = body["metadata"]["name"]
        logger.warning("%s: ignoring invalid parts of its status: %s", name, ", ".join(left_out))
    return status
