"""Reads what the labels of nodes say about their GPUs, for preflight."""

import asyncio
from collections.abc import Mapping
from typing import Any

from cachetools import TTLCache

from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.gpus import Gpus, gpus_of, selector_of
from finetune_core.settings import OperatorSettings
from finetune_operator.cluster import Cluster
from finetune_operator.errors import ApiError

_FORBIDDEN = 403
_TRUST = 60.0
_REMEMBERED = 1000


class Nodes:
    """Nodes by their labels; read again after a minute, because many jobs ask for the same."""

    def __init__(self, cluster: Cluster, settings: OperatorSettings) -> None:
        self._cluster, self._settings = cluster, settings
        self._known: TTLCache[str, list[Mapping[str, Any]]] = TTLCache(_REMEMBERED, _TRUST)
        self._reading = asyncio.Lock()

    async def gpus_for(self, job: FineTuneJob, resolved: Resolved) -> Gpus | None:
        """The GPUs that a job may get; None where no label shows them, or the operator may not read nodes.

        An operator of some namespaces only has no right to read them, and GPUs that are simulated have no memory.
        """
        settings = self._settings
        selector = selector_of(job, resolved, settings)
        if selector is None or settings.namespaces or settings.simulate_gpus:
            return None
        async with self._reading:
            if (nodes := self._known.get(selector)) is None:
                nodes = self._known[selector] = await self._read(selector)
        return gpus_of(nodes, job, resolved, settings)

    async def _read(self, selector: str) -> list[Mapping[str, Any]]:
        """What is needed of these nodes. Raises ApiError."""
        try:
            return [
                {"metadata": {"labels": node["metadata"].get("labels")}, "spec": node.get("spec")}
                async for page in self._cluster.pages("Node", None, selector)
                for node in page
            ]
        except ApiError as error:
            if error.status != _FORBIDDEN:
                raise
            return []
