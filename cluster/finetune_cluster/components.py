"""The programs of the node cluster: command, environment, and where health shows."""

from dataclasses import dataclass, field
from pathlib import Path

from finetune_cluster import controlplane, nodeconfig
from finetune_cluster.binaries import binary
from finetune_cluster.controlplane import Etcd
from finetune_cluster.credentials import Credentials
from finetune_cluster.sandbox import NODE_ADDRESS, POD_GATEWAY

API_PORT = 6443
API_URL = f"https://{NODE_ADDRESS}:{API_PORT}"
ADMIN = "admin"
_MANAGER = "system:kube-controller-manager"
_SCHEDULER = "system:kube-scheduler"
_PROXY = "system:kube-proxy"
_NODE = f"system:node:{nodeconfig.NODE_NAME}"
USERS = {
    ADMIN: "system:masters",
    _MANAGER: "",
    _SCHEDULER: "",
    _PROXY: "",
    _NODE: "system:nodes",
}
_MANAGER_PORT, _SCHEDULER_PORT, _ETCD_HEALTH_PORT = 10257, 10259, 2381


@dataclass(frozen=True)
class Component:
    """One program: `health` is an http(s) URL, or "" where only its life is watched."""

    name: str
    command: list[str]
    health: str = ""
    env: dict[str, str] = field(default_factory=dict)


def node_paths(state: Path, cache: Path, made: Credentials) -> nodeconfig.NodePaths:
    return nodeconfig.NodePaths(
        state=state,
        containerd_root=cache / "containerd",
        registry_data=cache / "registry",
        cni_programs=binary("bridge").parent,
        runc=binary("runc"),
        shim=binary("containerd-shim-runc-v2"),
        authority=made.ca,
        proxy_kubeconfig=made.kubeconfig(_PROXY),
        dns_kubeconfig=made.kubeconfig(ADMIN),
    )


def programs() -> tuple[str, ...]:
    """Every program of the node cluster, and those that install into it."""
    cni = ("bridge", "loopback", "host-local", "portmap")
    control = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kubectl", "helm")
    node = ("kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "runc", *cni)
    return (*control, *node, "coredns", "registry", "pause")


def independent(paths: nodeconfig.NodePaths, made: Credentials) -> list[Component]:
    """Components that can start at once; the API server waits for etcd."""
    etcd = Etcd(paths.state / "etcd", 2379, 2380, f"http://{NODE_ADDRESS}:{_ETCD_HEALTH_PORT}")
    api_server = [
        *controlplane.api_server(binary("kube-apiserver"), etcd, made, API_PORT),
        *controlplane.listening_for_pods(NODE_ADDRESS),
    ]
    containerd = [str(binary("containerd")), "--config", str(paths.config / "containerd.toml")]
    registry = [str(binary("registry")), "serve", str(paths.config / "registry.json")]
    return [
        Component("etcd", etcd.command(binary("etcd")), f"http://{NODE_ADDRESS}:{_ETCD_HEALTH_PORT}/health"),
        Component("kube-apiserver", api_server, f"{API_URL}/readyz", controlplane.ENVIRONMENT),
        Component("containerd", containerd),
        Component(
            "registry",
            registry,
            f"http://{NODE_ADDRESS}:{nodeconfig.REGISTRY_PORT}/v2/",
            {"OTEL_TRACES_EXPORTER": "none"},
        ),
    ]


def clients_of_api(paths: nodeconfig.NodePaths, made: Credentials) -> list[Component]:
    """Components that need the API server and the roles that it creates when it becomes ready."""
    manager = controlplane.controller_manager(
        binary("kube-controller-manager"), made, made.kubeconfig(_MANAGER), _MANAGER_PORT, NODE_ADDRESS
    )
    scheduler = controlplane.scheduler(
        binary("kube-scheduler"), made, made.kubeconfig(_SCHEDULER), _SCHEDULER_PORT, NODE_ADDRESS
    )
    kubelet = [
        str(binary("kubelet")),
        f"--config={paths.config / 'kubelet.json'}",
        f"--kubeconfig={made.kubeconfig(_NODE)}",
        f"--hostname-override={nodeconfig.NODE_NAME}",
        f"--node-ip={NODE_ADDRESS}",
    ]
    proxy = [str(binary("kube-proxy")), f"--config={paths.config / 'kube-proxy.json'}"]
    dns = [str(binary("coredns")), "-conf", str(paths.config / "Corefile")]
    return [
        Component("kube-controller-manager", manager, f"https://{NODE_ADDRESS}:{_MANAGER_PORT}/healthz"),
        Component("kube-scheduler", scheduler, f"https://{NODE_ADDRESS}:{_SCHEDULER_PORT}/healthz"),
        Component("kubelet", kubelet, f"http://{NODE_ADDRESS}:{nodeconfig.KUBELET_HEALTH_PORT}/healthz"),
        Component("kube-proxy", proxy, f"http://{NODE_ADDRESS}:{nodeconfig.PROXY_HEALTH_PORT}/healthz"),
        # ready only once it knows the Services: before, it answers every name with a failure
        Component("coredns", dns, f"http://{POD_GATEWAY}:{nodeconfig.DNS_HEALTH_PORT}/ready"),
    ]
