"""One storm of faults over jobs of every kind, as a sample of `make test-faults`: all succeed, nothing twice."""

from pathlib import Path

from faults.storm import jobs_survive
from finetune_cluster.apiserver import ApiServer


def test_every_kind_of_job_survives_a_storm_of_faults(cluster: ApiServer, tmp_path: Path) -> None:
    jobs_survive(cluster, tmp_path, seed=1, faults=18)
