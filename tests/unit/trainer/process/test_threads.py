"""The thread count follows the CPU quota of the control group."""

import os

import pytest

from finetune_trainer.process.threads import WAITING, configure, cpu_quota, thread_count


def proc(tmp_path, groups, mounts):
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "cgroup").write_text("".join(f"{line}\n" for line in groups))
    (folder / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    return folder


def group(tmp_path, path, **files):
    folder = tmp_path / path
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_v2_takes_the_tightest_quota_up_to_the_mount(tmp_path):
    group(tmp_path, "v2/pods", cpu__max="150000 100000\n")
    group(tmp_path, "v2/pods/one", cpu__max="max 100000\n")
    mount = f"30 20 0:26 / {tmp_path}/v2 rw - cgroup2 cgroup2 rw"
    assert cpu_quota(proc(tmp_path, ["0::/pods/one"], [mount])) == 1.5


def test_v2_of_a_pod_with_a_namespace_of_its_own(tmp_path):
    group(tmp_path, "v2", cpu__max="50000 100000\n")
    mount = f"30 20 0:26 / {tmp_path}/v2 ro - cgroup2 cgroup rw"
    folder = proc(tmp_path, ["0::/"], [mount])
    assert cpu_quota(folder) == 0.5
    assert thread_count(folder) == 1


def test_v1_subtracts_the_root_that_the_runtime_mounted(tmp_path):
    group(tmp_path, "v1", cpu__cfs_quota_us="200000\n", cpu__cfs_period_us="100000\n")
    mount = f"31 20 0:27 /kubepods/pod7 {tmp_path}/v1 ro - cgroup cgroup rw,cpu,cpuacct"
    assert cpu_quota(proc(tmp_path, ["4:cpu,cpuacct:/kubepods/pod7", "0::/"], [mount])) == 2.0


@pytest.mark.parametrize("quota", ["-1", "nonsense"])
def test_v1_without_a_quota_is_none(tmp_path, quota):
    group(tmp_path, "v1", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    mount = f"31 20 0:27 / {tmp_path}/v1 ro - cgroup cgroup rw,cpu"
    assert cpu_quota(proc(tmp_path, ["4:cpu:/"], [mount])) is None


def test_without_control_groups_the_affinity_mask_counts(tmp_path):
    assert thread_count(tmp_path / "nothing") == len(os.sched_getaffinity(0))


def test_the_users_own_count_is_kept():
    environ = {"OMP_NUM_THREADS": "3"}
    assert configure(environ) == 3
    assert environ["RAYON_NUM_THREADS"] == environ["MKL_NUM_THREADS"] == "3"
    assert environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize(("processes", "threads"), [(1, 4), (2, 2), (3, 1), (8, 1)])
def test_processes_share_the_quota(monkeypatch, processes, threads):
    monkeypatch.setattr("finetune_trainer.process.threads.cpu_quota", lambda *_: 4.0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    environ = {}
    assert configure(environ, processes) == threads
    assert environ["OMP_NUM_THREADS"] == environ["RAYON_NUM_THREADS"] == str(threads)


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_the_users_own_way_of_waiting_is_kept_whole(own):
    environ = dict(own)
    configure(environ)
    assert {name: environ.get(name) for name in WAITING} == {**dict.fromkeys(WAITING), **own}
