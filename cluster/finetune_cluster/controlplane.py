"""Command lines of the control plane's programs (pure): the one place that knows their flags."""

from dataclasses import dataclass
from pathlib import Path

from finetune_cluster.credentials import Credentials

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_OF_API_SERVER = "10.96.0.1"
ENVIRONMENT = {"GOGC": "400", "GOMEMLIMIT": "4GiB"}
"""Garbage is collected when there is four times as much as what lives, by default as much: CPU is scarcer than memory
on a machine that runs a whole cluster. Above 4 GiB it is collected more often."""


@dataclass(frozen=True)
class Etcd:
    """Where etcd listens and keeps its data; it never syncs to disk: no data here outlives a machine."""

    data: Path
    port: int
    peer_port: int
    health_address: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, program: Path) -> list[str]:
        peer = f"http://127.0.0.1:{self.peer_port}"
        health = [f"--listen-metrics-urls={self.health_address}"] if self.health_address else []
        return [
            str(program),
            *health,
            f"--data-dir={self.data}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--quota-backend-bytes=4294967296",
            "--log-level=warn",
        ]


def api_server(program: Path, etcd: Etcd, credentials: Credentials, port: int) -> list[str]:
    """Flags that every API server here has; callers add where it listens and what it admits."""
    certificate, key = credentials.server
    client_certificate, client_key = credentials.kubelet_client
    public, private = credentials.service_account
    return [
        str(program),
        f"--etcd-servers={etcd.url}",
        f"--secure-port={port}",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        f"--client-ca-file={credentials.ca}",
        f"--token-auth-file={credentials.tokens}",
        f"--kubelet-client-certificate={client_certificate}",
        f"--kubelet-client-key={client_key}",
        f"--service-account-key-file={public}",
        f"--service-account-signing-key-file={private}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",  # the node's name is in no DNS
        "--profiling=false",
    ]


def listening_on_loopback(*, controllers: bool) -> list[str]:
    """For an API server without nodes: no pod looks for it, and no one makes ServiceAccounts."""
    without_accounts = [] if controllers else ["--disable-admission-plugins=ServiceAccount"]
    return ["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none", *without_accounts]


def listening_for_pods(address: str) -> list[str]:
    """Pods reach it through the service address only if it does not listen on loopback alone."""
    return ["--bind-address=0.0.0.0", f"--advertise-address={address}"]


def controller_manager(
    program: Path, credentials: Credentials, kubeconfig: Path, port: int, address: str = "127.0.0.1"
) -> list[str]:
    """All controllers; port 0 serves no health."""
    _, private = credentials.service_account
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        *_serving(credentials, port, address),
        f"--root-ca-file={credentials.ca}",
        f"--service-account-private-key-file={private}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def scheduler(
    program: Path, credentials: Credentials, kubeconfig: Path, port: int, address: str = "127.0.0.1"
) -> list[str]:
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        *_serving(credentials, port, address),
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def _serving(credentials: Credentials, port: int, address: str) -> list[str]:
    """Health for us alone: nobody else asks, so nobody has to be looked up."""
    certificate, key = credentials.server
    return [
        f"--secure-port={port}",
        f"--bind-address={address}",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
    ]
