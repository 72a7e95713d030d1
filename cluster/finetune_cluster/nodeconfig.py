"""The node's configuration files (pure): containerd, kubelet, kube-proxy, CNI, CoreDNS, registry."""

import json
from dataclasses import dataclass
from pathlib import Path

from finetune_cluster import cgroups
from finetune_cluster.sandbox import BRIDGE, NODE_ADDRESS, POD_GATEWAY, POD_RANGE

NODE_NAME = "finetune-node"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
SOCKET_IN_STATE = "run/containerd/containerd.sock"  # the same, as the host sees it
PAUSE_IMAGE = "localhost/finetune-pause:1"
REGISTRY_PORT = 5000
KUBELET_HEALTH_PORT = 10248
PROXY_HEALTH_PORT = 10256
DNS_HEALTH_PORT = 8181


@dataclass(frozen=True)
class NodePaths:
    """Everything that the configuration files point to."""

    state: Path
    containerd_root: Path
    registry_data: Path
    cni_programs: Path
    runc: Path
    shim: Path
    authority: Path
    proxy_kubeconfig: Path
    dns_kubeconfig: Path

    @property
    def config(self) -> Path:
        return self.state / "config"

    @property
    def cni(self) -> Path:
        return self.config / "cni"


def files(paths: NodePaths) -> dict[Path, str]:
    """All configuration files: path → text."""
    return {
        paths.config / "containerd.toml": _containerd(paths),
        paths.config / "kubelet.json": _json(_kubelet(paths)),
        paths.config / "kube-proxy.json": _json(_proxy(paths)),
        paths.config / "Corefile": _corefile(paths),
        paths.config / "registry.json": _json(_registry(paths)),
        paths.config / "resolv.conf": "",  # pods get the cluster's DNS, and nothing of the host's
        paths.cni / "10-finetune.conflist": _json(_cni(paths)),
    }


def _containerd(paths: NodePaths) -> str:
    images = "plugins.'io.containerd.cri.v1.images'"
    runtime = "plugins.'io.containerd.cri.v1.runtime'"
    return f"""version = 3
root = '{paths.containerd_root}'
state = '{paths.state}/run/containerd-state'
disabled_plugins = ['io.containerd.internal.v1.opt']

[grpc]
address = '{CONTAINERD_SOCKET}'

[plugins.'io.containerd.nri.v1.nri']
disable = true

[{images}]
snapshotter = 'overlayfs'
discard_unpacked_layers = true  # the registry has them, and they are gigabytes

[{images}.pinned_images]
sandbox = '{PAUSE_IMAGE}'

[{runtime}]
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true

[{runtime}.containerd]
default_runtime_name = 'runc'

[{runtime}.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
runtime_path = '{paths.shim}'  # else the first one on PATH, which is Docker's on a machine that has it

[{runtime}.containerd.runtimes.runc.options]
BinaryName = '{paths.runc}'
SystemdCgroup = false

[{runtime}.cni]
bin_dirs = ['{paths.cni_programs}']
conf_dir = '{paths.cni}'
"""


def _kubelet(paths: NodePaths) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",  # noqa: S104  # of its own network namespace
        "healthzBindAddress": NODE_ADDRESS,
        "healthzPort": KUBELET_HEALTH_PORT,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(paths.authority)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroups.NAME}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,
        "clusterDNS": [POD_GATEWAY],
        "clusterDomain": "cluster.local",
        "resolvConf": str(paths.config / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "serializeImagePulls": False,
        # A disk over 85 % full would silently delete the trainer image.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "maxPods": 200,
    }


def _proxy(paths: NodePaths) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(paths.proxy_kubeconfig)},
        "clusterCIDR": POD_RANGE,
        "mode": "iptables",
        "hostnameOverride": NODE_NAME,
        "healthzBindAddress": f"{NODE_ADDRESS}:{PROXY_HEALTH_PORT}",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _cni(paths: NodePaths) -> dict[str, object]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_RANGE, "gateway": POD_GATEWAY}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(paths.state / "run" / "cni-addresses"),
    }
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": True,  # so that pods reach the host, which knows the node's address
        "hairpinMode": True,
        "ipam": addresses,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "finetune", "plugins": [bridge, portmap]}


def _corefile(paths: NodePaths) -> str:
    """No forward: pods have no way out, and a refusal at once is better than a time-out."""
    return f""".:53 {{
    bind {POD_GATEWAY}
    ready {POD_GATEWAY}:{DNS_HEALTH_PORT}
    errors
    cache 5
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {paths.dns_kubeconfig}
        ttl 5
    }}
}}
"""


def _registry(paths: NodePaths) -> dict[str, object]:
    return {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(paths.registry_data)}, "delete": {"enabled": True}},
        "http": {"addr": f":{REGISTRY_PORT}"},
    }


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, indent=2)
