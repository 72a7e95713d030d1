"""Kopf's storages of what it handled and knows, for an operator with `on.event` handlers only, which need none of them.

With its own storages Kopf copies and compares every object at every event, which is most of what an event costs, and
keeps a record of every object that exists.
"""

from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory


class NoDiffBase(kopf.DiffBaseStorage):
    """Of what was handled last, which `on.event` handlers never ask for: Kopf would copy every object to compute it."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing is compared."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        """Nothing was stored."""

    def store(self, **_: Any) -> None:
        """Nothing is stored."""


class NoProgress(kopf.ProgressStorage):
    """Of the progress of handlers, which `on.event` handlers do not have."""

    def fetch(self, **_: Any) -> None:
        """Nothing was stored."""

    def store(self, **_: Any) -> None:
        """Nothing is stored."""

    def purge(self, **_: Any) -> None:
        """Nothing is there to be removed."""

    def touch(self, **_: Any) -> None:
        """Nothing is waited for."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Nothing is there to be removed."""
        return essence


class NoMemories(ResourceMemories):
    """Of daemons, indexes and memos of each object, which `on.event` handlers do not have."""

    async def recall(self, raw_body: kopf.RawBody, **given: Any) -> ResourceMemory:
        """A new record, which is not kept."""
        return await super().recall(raw_body, **(given | {"ephemeral": True}))
