"""`make monitoring`: a Prometheus beside the cluster that scrapes operator and training pods, until Ctrl-C."""

import argparse
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from finetune_cluster.binaries import binary
from finetune_cluster.choice import chosen_cluster
from finetune_cluster.commands import run
from finetune_cluster.errors import ClusterError
from finetune_cluster.prometheus import prometheus_program
from finetune_demo.platform import CHART, SYSTEM
from finetune_demo.scrape import (
    ENDPOINTS_FILE,
    PODS_FILE,
    RULES_FILE,
    configuration,
    endpoint_targets,
    pod_targets,
    rules_of,
)

Json = dict[str, Any]

_START_SECONDS, _DISCOVERY_SECONDS = 60.0, 2.0
_MONITORS = ("serviceMonitor", "podMonitor", "rules")


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    address: str
    process: "subprocess.Popen[bytes]"

    def api(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer of its HTTP API. Raises ClusterError with Prometheus' message."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.address}/api/v1/{path}?{query}", timeout=30) as answer:  # noqa: S310
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ClusterError(f"{path} {parameters}: {error.read().decode(errors='replace')}") from error

    def query(self, expression: str) -> list[Json]:
        """The series of an expression now."""
        found: list[Json] = self.api("query", query=expression)["result"]
        return found


def chart_objects() -> list[Json]:
    """The monitors and rules that the chart makes."""
    options = [part for one in _MONITORS for part in ("--set", f"metrics.{one}.enabled=true")]
    text = run([binary("helm"), "template", "finetune-operator", CHART, "--namespace", SYSTEM, *options])
    return [one for one in yaml.safe_load_all(text) if one]


@contextmanager
def prometheus(
    kubeconfig: Path,
    port: int,
    interval: str = "5s",
    more_jobs: tuple[Json, ...] = (),
    data: Path | None = None,
) -> Iterator[Prometheus]:
    """Prometheus with the chart's monitors and rules, on 127.0.0.1. Raises ClusterError.

    Its data goes with it, unless `data` is a folder that keeps them.
    """
    _check_port(port)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finetune-prometheus-")))
        proxy = stack.enter_context(_proxy(kubeconfig, folder / "proxy.log"))
        objects = chart_objects()
        (folder / RULES_FILE).write_text(yaml.safe_dump(rules_of(objects)))
        stack.enter_context(_discovery(proxy, folder))
        settings = configuration(objects, proxy, interval)
        settings["scrape_configs"] += more_jobs
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        command = [
            prometheus_program("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={data or folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        log = folder / "prometheus.log"
        process = stack.enter_context(_running([str(part) for part in command], log))
        server = Prometheus(f"http://127.0.0.1:{port}", process)
        _wait_until_ready(server, log)
        yield server


def _check_port(port: int) -> None:
    """Else the answers of whoever listens there would be taken for those of this Prometheus."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError as error:
            raise ClusterError(
                f"port {port} is in use; choose another: make monitoring PORT={port + 1}"
            ) from error


@contextmanager
def _proxy(kubeconfig: Path, log: Path) -> Iterator[str]:
    """kubectl proxy on a free port; its address."""
    command = [str(binary("kubectl")), "--kubeconfig", str(kubeconfig), "proxy", "--port=0"]
    with _running(command, log) as process:
        deadline = time.monotonic() + _START_SECONDS
        while "Starting to serve on " not in (text := log.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(f"kubectl proxy did not start:\n{text}")
            time.sleep(0.1)
        yield text.partition("Starting to serve on ")[2].splitlines()[0]


@contextmanager
def _discovery(proxy: str, folder: Path) -> Iterator[None]:
    """Write the targets now and every other second; Prometheus reads a file when it changes."""
    _write_targets(proxy, folder)
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(_DISCOVERY_SECONDS):
            try:
                _write_targets(proxy, folder)
            except (OSError, ValueError):
                continue  # the API server restarts: Prometheus goes on with the targets that it has

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _write_targets(proxy: str, folder: Path) -> None:
    services, pods = (_list(proxy, kind) for kind in ("services", "pods"))
    for name, targets in ((PODS_FILE, pod_targets(pods)), (ENDPOINTS_FILE, endpoint_targets(services, pods))):
        half = folder / f"{name}.half"
        half.write_text(json.dumps(targets))
        half.rename(folder / name)


def _list(proxy: str, kind: str) -> list[Json]:
    with urllib.request.urlopen(f"http://{proxy}/api/v1/{kind}", timeout=30) as answer:
        found: list[Json] = json.load(answer)["items"]
        return found


@contextmanager
def _running(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(server: Prometheus, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if server.process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").splitlines()[-5:]
            raise ClusterError("Prometheus did not start:\n" + "\n".join(lines))
        try:
            server.api("status/runtimeinfo")
        except (OSError, ClusterError):
            time.sleep(0.2)
        else:
            return


def main() -> int:
    """Run Prometheus until Ctrl-C: 0, or 1 if it could not be started."""
    parser = argparse.ArgumentParser(prog="make monitoring", description=__doc__)
    parser.add_argument("--port", type=int, default=9090, help="port of Prometheus on 127.0.0.1")
    port = parser.parse_args().port
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _serve(port, console)
    except KeyboardInterrupt:
        return 0
    except ClusterError as error:
        console.print(f"[red]{escape(str(error))}")
    return 1


def _serve(port: int, console: Console) -> None:
    """Until Ctrl-C, or until Prometheus ends. Raises ClusterError."""
    with prometheus(chosen_cluster().kubeconfig, port) as server:
        console.print(f"Prometheus scrapes the operator and training pods: [bold]{server.address}[/]")
        console.print(f"  targets  {server.address}/targets")
        console.print(f"  alerts   {server.address}/alerts")
        console.print(f"  a query  {server.address}/graph?g0.expr=finetune_job_loss&g0.tab=0")
        console.print("Ctrl-C stops it and deletes its data.")
        server.process.wait()
    raise ClusterError("Prometheus has ended")


if __name__ == "__main__":
    sys.exit(main())
