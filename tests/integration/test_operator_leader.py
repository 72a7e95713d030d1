"""Two replicas: the standby takes over from a leader that ends or is killed, and hands progress on to it.

More of this, with faults of every kind: tests/faults.
"""

from pathlib import Path

from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import Rest, until
from integration.replicas import TAKEOVER, replicas, seconds_until
from integration.test_operator_progress import Trainer, authority_of, report, step_of
from ports import free_port


def test_the_standby_takes_over_at_once_after_sigterm_and_within_20_seconds_after_sigkill(
    cluster: ApiServer, rest: Rest, tmp_path: Path
) -> None:
    with replicas(cluster, rest, tmp_path, "takeover") as pair:
        first = pair.start("first")
        second = pair.start("second")
        assert pair.leader(first, second) is first
        assert (first.leads, second.leads) == (True, False)
        begun = pair.world.run(pair.world.apply("begun"))
        assert second.writes() == 0

        assert first.stop() == 0
        assert seconds_until(lambda: second.leads, "the second leads", 10) < 10
        again = pair.start("first")
        pair.world.until_phase("begun", "Running")

        second.kill()
        pair.world.apply("unled")
        assert seconds_until(lambda: again.leads, "the first leads again") < TAKEOVER
        pair.world.succeed(begun)
        pair.world.until_phase("begun", "Succeeded")
        pair.world.succeed(pair.world.run("unled"))
        pair.world.until_phase("unled", "Succeeded")
        assert [len(pair.world.children(name)) for name in ("begun", "unled")] == [1, 1]
        assert (pair.lease() or {})["spec"]["leaseTransitions"] == 2


def test_a_report_to_the_standby_reaches_the_leader_and_is_refused_politely_without_one(
    cluster: ApiServer, rest: Rest, tmp_path: Path
) -> None:
    with replicas(cluster, rest, tmp_path, "forwarded") as pair:
        ports = {name: free_port() for name in ("leader", "standby")}

        def settings(name: str) -> dict[str, object]:
            return {
                "progress_url": f"https://127.0.0.1:{ports[name]}",
                "progress_port": ports[name],
                "address": "127.0.0.1",
                "progress_interval": 0.2,
                "tls_folder": tmp_path / "tls",
            }

        leader = pair.start("leader", **settings("leader"))
        pair.leader(leader)
        pair.start("standby", **settings("standby"))
        name = pair.world.apply()
        pod = pair.world.run(name)
        pair.world.until_phase(name, "Running")
        authority = authority_of(pair.world, name)
        trainer = Trainer(ports["standby"], authority, pair.world.token(pod))
        assert trainer.post(report(12)) == 200
        until(lambda: step_of(pair.world, name) == 12, "the report is in the status")
        assert Trainer(ports["standby"], authority, "junk").post(report(13)) == 401
        assert trainer.post(b"{}" * 40_000) == 413
        leader.kill()
        assert trainer.post(report(14)) == 503
