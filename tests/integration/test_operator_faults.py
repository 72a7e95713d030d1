"""One storm of faults over jobs of every kind, as a sample of `make test-faults`: all succeed, nothing twice."""

from pathlib import Path

from faults.rig import rig
from faults.storm import storm
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import CHILDREN, PATIENCE

RATE = "training.optimizer.learningRate"


def test_every_kind_of_job_survives_a_storm_of_faults(cluster: ApiServer, tmp_path: Path) -> None:
    parameters = [{"path": RATE, "choice": [1e-4, 2e-4]}]
    search = {"parameters": parameters, "maxTrials": 2, "algorithm": "Grid", "parallelism": 2}
    with rig(cluster, tmp_path, "storm") as found:
        names = [found.world.apply(f"plain-{number}") for number in range(3)]
        names.append(found.world.apply("checked", preflight="Required"))
        names.append(found.world.apply("search", search=search))
        names.append(found.world.apply("ensemble", ensemble={"members": 2}))
        storm(found, seed=1, faults=18)
        found.succeeds(*names, seconds=2 * PATIENCE)
        children = found.world.rest.items(found.world.at(CHILDREN))
        assert len({one["metadata"]["name"] for one in children}) == len(children) == 3 + 2 + 3 + 3
        found.rests()
