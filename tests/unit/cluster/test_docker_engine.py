"""What Docker's answers mean. docker_answers.json has what the command lines of Docker 28, Docker 20.10 and Podman
4.3 really print; the engines behind `old` and `windows` were stand-ins with an engine's answer to /version."""

import json
from pathlib import Path

import pytest

from finetune_cluster.kind.engine import Answer, engine_of, pull_problem

ANSWERS = {
    name: Answer(**answer)
    for name, answer in json.loads(Path(__file__).with_name("docker_answers.json").read_text()).items()
}
CLIENTS = ("20.10", "28")


def info(**changes: object) -> Answer:
    usual = {
        "CgroupVersion": "2",
        "CgroupDriver": "systemd",
        "SecurityOptions": ["name=seccomp,profile=default"],
    }
    limits = {"MemoryLimit": True, "PidsLimit": True, "CPUShares": True}
    return Answer(0, json.dumps({**usual, **limits, **changes}))


USABLE = Answer(
    0, json.dumps({"Client": {}, "Server": {"Version": "20.10.24", "ApiVersion": "1.41", "Os": "linux"}})
)
ROOTLESS = ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("stopped", "Docker is not running at unix:///var/run/docker.sock. Start it"),
        ("denied", "you may not use it (permission denied on its socket). Add yourself to its group"),
        ("old", "Docker 19.03.15 is too old for kind. Install version 20.10 or newer."),
        ("windows", "Docker runs windows containers, and kind needs Linux containers."),
        ("podman-socket", "`docker` is Podman here"),
        ("ssh", "Could not resolve hostname build.invalid"),
        ("context", 'context "absent"'),
    ],
)
def test_an_engine_that_kind_cannot_use_is_named_with_the_remedy(
    what: str, client: str, sentence: str
) -> None:
    problem = engine_of(ANSWERS[f"{what}-{client}"]).problem
    assert sentence in problem
    assert problem.endswith(".")
    assert "\n" not in problem


def test_podman_s_own_command_line_under_docker_s_name_is_recognised() -> None:
    assert "Podman" in engine_of(ANSWERS["podman-cli"]).problem


def test_a_machine_without_docker_and_one_that_hangs() -> None:
    assert engine_of(None).problem == "Docker is not installed: there is no `docker` on PATH."
    assert "did not answer within 10 s" in engine_of(Answer(None)).problem


def test_every_collected_answer_is_used() -> None:
    kinds = {"stopped", "denied", "old", "windows", "podman-socket", "ssh", "context"}
    kinds |= {"usable-version", "usable-info"}
    assert set(ANSWERS) == {f"{kind}-{client}" for kind in kinds for client in CLIENTS} | {"podman-cli"}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_real_docker_20_10_on_cgroup_v1_can_be_used(client: str) -> None:
    engine = engine_of(ANSWERS[f"usable-version-{client}"], ANSWERS[f"usable-info-{client}"])
    assert (engine.problem, engine.cgroup_v1, engine.rootless) == ("", True, False)


def test_an_ordinary_docker_has_no_problem_and_its_cgroups_are_known() -> None:
    engine = engine_of(USABLE, info())
    assert (engine.problem, engine.cgroup_v1, engine.rootless) == ("", False, False)
    assert engine_of(USABLE, info(CgroupVersion="1", CgroupDriver="cgroupfs")).cgroup_v1


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({}, ""),
        (
            {"CgroupVersion": "1", "CgroupDriver": "none"},
            "rootless, and kind supports that with cgroup v2 only",
        ),
        ({"CgroupDriver": "none"}, "Delegate=yes"),
        ({"PidsLimit": False}, "Delegate=yes"),
    ],
)
def test_rootless_docker_needs_cgroup_v2_with_delegation(facts: dict[str, object], sentence: str) -> None:
    engine = engine_of(USABLE, info(SecurityOptions=ROOTLESS, **facts))
    assert sentence in engine.problem
    assert bool(engine.problem) is bool(sentence)
    assert engine.rootless is not bool(sentence)


def test_an_info_that_fails_after_a_version_that_did_not_is_a_problem() -> None:
    assert "daemon is busy" in engine_of(USABLE, Answer(1, "", "daemon is busy")).problem


@pytest.mark.parametrize(
    ("pull", "sentence"),
    [
        (Answer(None, "v1.37.0: Pulling from kindest/node\n"), ""),
        (Answer(0, "Status: Image is up to date for kindest/node:v1.37.0\n"), ""),
        (Answer(None), "its registry did not answer within 10 s"),
        (
            Answer(1, "", "Error response from daemon: manifest for a/b:c not found: manifest unknown\n"),
            "cannot be pulled (Error response from daemon: manifest for a/b:c not found: manifest unknown).",
        ),
    ],
)
def test_a_pull_that_starts_is_enough(pull: Answer, sentence: str) -> None:
    problem = pull_problem("a/b:c", pull)
    assert sentence in problem
    assert bool(problem) is bool(sentence)


@pytest.mark.parametrize(
    ("endpoint", "remote"),
    [
        ("unix:///var/run/docker.sock", False),
        ("unix:///home/finetune/.docker/desktop/docker.sock", False),
        ("npipe:////./pipe/docker_engine", False),
        ("tcp://127.0.0.1:2375", False),
        ("tcp://localhost:2375", False),
        ("tcp://10.1.2.3:2375", True),
        ("tcp://localhost.example.com:2375", True),
        ("ssh://build.invalid", True),
        ("", False),
    ],
)
def test_a_docker_on_another_machine_is_no_place_for_a_local_cluster(endpoint: str, remote: bool) -> None:
    problem = engine_of(USABLE, info(), endpoint).problem
    assert problem.startswith(f"Docker is on another machine ({endpoint})") is remote
    assert bool(problem) is remote
