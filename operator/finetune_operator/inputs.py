"""What a pod waits for: claims, ConfigMaps, and the Service of several."""

from cachetools import TTLCache

from finetune_api import uris
from finetune_core.decide.observation import InputView
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.volumes import input_locations
from finetune_core.wire import at, items, text
from finetune_operator.cluster import Cluster

_TRUST = 10.0
_REMEMBERED = 10_000


class Inputs:
    """Looks at inputs. One that is there and bound is not looked at again for a while: many jobs read the same.

    What is missing or unbound is always looked at, so that a message that says so is true.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._there: TTLCache[tuple[str, str, str], InputView] = TTLCache(_REMEMBERED, _TRUST)

    async def of(self, job: FineTuneJob, output_uri: str | None) -> tuple[InputView, ...]:
        """What a job reads, and where it writes to."""
        locations = [*input_locations(job), *([uris.parse(output_uri)] if output_uri else [])]
        places = dict.fromkeys((place.scheme, place.name) for place in locations)
        return tuple([await self._look(job.namespace, *place) for place in places])

    async def config_map(self, namespace: str, name: str) -> InputView:
        """A ConfigMap, as it is now."""
        return InputView("ConfigMap", name, await self._cluster.get("ConfigMap", namespace, name) is not None)

    async def service(self, namespace: str, name: str) -> InputView:
        """The Service by which the pods of several nodes find each other."""
        return await self._look(namespace, "service", name)

    async def _look(self, namespace: str, scheme: str, name: str) -> InputView:
        if known := self._there.get((namespace, scheme, name)):
            return known
        look = {"configMap": self.config_map, "service": self._service}.get(scheme, self._claim)
        view = await look(namespace, name)
        if view.exists and view.bound:
            self._there[namespace, scheme, name] = view
        return view

    async def _service(self, namespace: str, name: str) -> InputView:
        return InputView("Service", name, await self._cluster.get("Service", namespace, name) is not None)

    async def _claim(self, namespace: str, name: str) -> InputView:
        claim = await self._cluster.get("PersistentVolumeClaim", namespace, name)
        if claim is None:
            return InputView("PersistentVolumeClaim", name, exists=False)
        bound = at(claim, "status", "phase") == "Bound"
        # a bound claim has the modes of its volume, which may be more than it asked for
        modes = items(claim, "status" if bound else "spec", "accessModes")
        return InputView(
            kind="PersistentVolumeClaim",
            name=name,
            exists=True,
            bound=bound,
            storage_class=text(claim, "spec", "storageClassName"),
            access_modes=tuple(str(mode) for mode in modes),
            volume=text(claim, "spec", "volumeName"),
        )
