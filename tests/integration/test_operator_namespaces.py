"""The operator with Roles in some namespaces: one that is gone or closed to it does not stop the others."""

import urllib.request
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from finetune_cluster.apiserver import ApiServer
from integration.account import Account
from integration.fault_proxy import FaultProxy
from integration.operator_rig import Operator, Rest, World, make_namespace, running, until

_numbers = count(1)


@pytest.fixture
def account(cluster: ApiServer, rest: Rest) -> Account:
    return Account.make(cluster, rest, f"operator-{next(_numbers)}")


@pytest.fixture
def open_to(account: Account, rest: Rest) -> World:
    """A namespace in which the operator has its rights."""
    world = make_namespace(rest, f"open-{next(_numbers)}")
    account.grant(world.namespace)
    return world


def readyz(operator: Operator) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{operator.port}/readyz") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def start(account: Account, folder: Path, *namespaces: str) -> "Iterator[Operator]":
    return running(account.kubeconfig(folder), folder, namespaces=list(namespaces), resync_interval=5)  # type: ignore[return-value]


def unserved(operator: Operator, namespace: str) -> bool:
    wanted = f'finetune_operator_namespace_unserved{{namespace="{namespace}"}} 1.0'
    return wanted in operator.metrics()


def test_a_namespace_that_does_not_exist_or_is_closed_at_the_start_does_not_stop_the_others(
    account: Account, open_to: World, rest: Rest, tmp_path: Path
) -> None:
    closed = make_namespace(rest, f"closed-{next(_numbers)}")
    names = (closed.namespace, open_to.namespace, "nowhere")
    with start(account, tmp_path, *names) as operator:
        open_to.pod(open_to.apply())
        code, text = readyz(operator)
        assert code == 200
        assert closed.namespace in text
        assert "nowhere" in text
        assert "403" in text
        assert unserved(operator, closed.namespace)
        assert not unserved(operator, open_to.namespace)
        assert f"namespace {closed.namespace} is not served" in operator.log(characters=10**7)

        waiting = closed.apply()
        assert closed.status(waiting) == {"observedGeneration": -1}
        account.grant(closed.namespace)
        closed.pod(waiting)
        until(lambda: not unserved(operator, closed.namespace), "the namespace is served")
        assert closed.namespace not in readyz(operator)[1]


def test_a_namespace_that_is_closed_while_the_operator_runs_is_taken_up_again(
    account: Account, open_to: World, rest: Rest, tmp_path: Path
) -> None:
    other = make_namespace(rest, f"open-{next(_numbers)}")
    account.grant(other.namespace)
    with start(account, tmp_path, open_to.namespace, other.namespace) as operator:
        other.pod(other.apply())
        account.revoke(other.namespace)
        until(lambda: unserved(operator, other.namespace), "the namespace is named", log=operator)
        assert readyz(operator)[0] == 200
        late = other.apply()
        open_to.succeed(open_to.run(open_to.apply()))
        account.grant(other.namespace)
        other.pod(late)


def test_a_namespace_that_is_deleted_and_made_again_is_served_again(
    account: Account, open_to: World, rest: Rest, tmp_path: Path
) -> None:
    name = f"again-{next(_numbers)}"
    make_namespace(rest, name)
    account.grant(name)
    with start(account, tmp_path, open_to.namespace, name) as operator:
        rest("DELETE", f"/api/v1/namespaces/{name}")
        until(lambda: unserved(operator, name), "the namespace is named", log=operator)
        open_to.pod(open_to.apply())
        until(lambda: rest.get(f"/api/v1/namespaces/{name}") is None, "the namespace is gone")
        again = make_namespace(rest, name)
        account.grant(name)
        again.pod(again.apply())


@pytest.mark.parametrize("code", [404, 410, 500])
def test_a_namespace_whose_lists_fail_does_not_stop_the_others(
    cluster: ApiServer, rest: Rest, tmp_path: Path, code: int
) -> None:
    bad, good = (make_namespace(rest, f"{name}-{code}") for name in ("bad", "good"))
    proxy = FaultProxy(cluster, tmp_path)
    proxy.refusals[bad.namespace] = code
    try:
        with running(proxy.kubeconfig, tmp_path, namespaces=[bad.namespace, good.namespace]) as operator:
            good.succeed(good.run(good.apply()))
            assert unserved(operator, bad.namespace)
            assert f"{code} refused" in readyz(operator)[1]
            waiting = bad.apply()
            good.pod(good.apply())
            assert not bad.children(waiting)
            proxy.refusals.clear()
            bad.pod(waiting)
            assert not unserved(operator, bad.namespace)
            assert "Traceback" not in operator.log(characters=10**7)
    finally:
        proxy.stop()


def test_without_any_namespace_to_serve_it_is_not_ready_and_says_why(
    account: Account, tmp_path: Path
) -> None:
    operator = Operator(account.kubeconfig(tmp_path), tmp_path, {"namespaces": ["nowhere"]}).start()
    try:

        def says() -> bool:
            try:
                code, text = readyz(operator)
            except OSError:
                return False
            return code == 503 and "nowhere" in text

        until(says, "it says which namespace it cannot serve", log=operator)
        assert operator.alive
    finally:
        operator.kill()
