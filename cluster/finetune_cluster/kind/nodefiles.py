"""What is inside a node image that is built here (pure): packages, programs, images, manifests."""

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SUITE = "bookworm"
"""Its systemd 252 runs on cgroup v1 as well; from 256 on it refuses."""
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "conntrack",
    "iptables",
    "nftables",
    "iproute2",
    "ethtool",
    "kmod",
    "libseccomp2",
    "procps",
    "jq",
    "curl",
    "ca-certificates",
    "e2fsprogs",
    "pigz",
    "busybox-static",
)
PROGRAMS = {
    "usr/bin": ("kubelet", "kubectl", "kubeadm"),
    "usr/local/bin": ("containerd", "containerd-shim-runc-v2", "ctr"),
    "usr/local/sbin": ("runc",),
    "opt/cni/bin": ("bridge", "host-local", "loopback", "portmap"),
}
"""Our programs by their folder in the node."""
UNITS = ("kubelet.service", "containerd.service", "undo-mount-hacks.service")
UNWANTED = (
    "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "lib/systemd/system/multi-user.target.wants/*",
    "etc/systemd/system/*.wants/*",
    "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*",
    "lib/systemd/system/sockets.target.wants/*initctl*",
    "lib/systemd/system/basic.target.wants/*",
)
"""Units that a container does not start, as patterns."""
PROXY_PACKAGES = (
    "libc6",
    "iptables",
    "libip4tc2",
    "libip6tc2",
    "libmnl0",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftnl11",
    "libxtables12",
    "netbase",
)
"""Whose files kube-proxy's image has."""
PROXY_LINKS = {
    f"usr/sbin/{name}": "xtables-nft-multi"
    for family in ("iptables", "ip6tables")
    for name in (family, f"{family}-save", f"{family}-restore")
}
HELPER_LINKS = {f"bin/{name}": "busybox" for name in ("sh", "mkdir", "rm")}
PROVISIONER_IMAGE = "localhost/local-path-provisioner:node"
HELPER_IMAGE = "localhost/local-path-helper:node"
_STORAGE = "local-path-storage"


@dataclass(frozen=True)
class ControlImage:
    """An image of the control plane: the name that kubeadm expects, and the program in it."""

    name: str
    program: str

    @property
    def path(self) -> str:
        """CoreDNS and pause are started by their image, the others by a name on PATH."""
        return self.program if self.program in ("coredns", "pause") else f"usr/local/bin/{self.program}"

    @property
    def entrypoint(self) -> tuple[str, ...]:
        return (f"/{self.program}",) if self.program in ("coredns", "pause") else ()


def control_images(listed: Iterable[str], containerd_config: str) -> list[ControlImage]:
    """From `kubeadm config images list`, with the sandbox image that containerd is configured for."""
    names = [name for name in listed if _program(name) != "pause"]
    criterion = tomllib.loads(containerd_config)["plugins"]["io.containerd.grpc.v1.cri"]
    return [ControlImage(name, _program(name)) for name in (*names, criterion["sandbox_image"])]


def base_of_containers(spec: dict[str, Any]) -> str:
    """What containers start from, of `ctr oci spec`: with kind's hook, and without limits that a node may lack."""
    hooks = spec.setdefault("hooks", {})
    hooks.setdefault("createContainer", []).append({"path": "/kind/bin/mount-product-files.sh"})
    spec["process"].pop("rlimits", None)
    return json.dumps(spec)


def dockerfile(image: str) -> str:
    """How Docker starts the tree that was imported as `image`: systemd reads `container` and ends on that signal."""
    return (
        f"FROM {image}\n"
        "ENV container=docker\n"
        "STOPSIGNAL SIGRTMIN+3\n"
        'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]\n'
    )


def network() -> str:
    """The CNI configuration: the one node has the first range of kind's pods."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.244.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "node", "plugins": [bridge, portmap]})


def network_manifest() -> str:
    """What kind applies as the network: nothing has to be installed, and kind insists on an object."""
    about = {"network": "a bridge, configured in /etc/cni/net.d of the only node"}
    return json.dumps(_object("v1", "ConfigMap", "node-network", "kube-system") | {"data": about})


def storage_manifest() -> str:
    """What kind applies as storage: the class `standard` and its provisioner."""
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
    storage_class = _object("storage.k8s.io/v1", "StorageClass", "standard") | {
        "provisioner": "rancher.io/local-path",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Delete",
    }
    storage_class["metadata"]["annotations"] = annotations
    items = [
        _object("v1", "Namespace", _STORAGE),
        storage_class,
        *_rights(),
        _provisioner_config(),
        _provisioner(),
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _program(image: str) -> str:
    return image.rpartition("/")[2].partition(":")[0]


def _object(version: str, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _rights() -> list[dict[str, Any]]:
    """The provisioner watches claims, writes volumes, and starts a pod that makes or removes a folder."""
    read = ["get", "list", "watch"]
    rules = [
        _rule("", ["nodes", "persistentvolumeclaims", "configmaps", "pods/log"], read),
        _rule("", ["persistentvolumes", "pods"], [*read, "create", "patch", "update", "delete"]),
        _rule("", ["events"], ["create", "patch"]),
        _rule("storage.k8s.io", ["storageclasses"], read),
    ]
    group = "rbac.authorization.k8s.io"
    role = _object(f"{group}/v1", "ClusterRole", _STORAGE) | {"rules": rules}
    binding = _object(f"{group}/v1", "ClusterRoleBinding", _STORAGE) | {
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": _STORAGE},
        "subjects": [{"kind": "ServiceAccount", "name": "provisioner", "namespace": _STORAGE}],
    }
    return [_object("v1", "ServiceAccount", "provisioner", _STORAGE), role, binding]


def _rule(group: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _provisioner_config() -> dict[str, Any]:
    paths = {"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["/var/local-path"]}]}
    helper = _object("v1", "Pod", "helper-pod") | {
        "spec": {
            "priorityClassName": "system-node-critical",
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "helper", "image": HELPER_IMAGE, "imagePullPolicy": "Never"}],
        }
    }
    data = {
        "config.json": json.dumps(paths),
        "setup": '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\n',
        "teardown": '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n',
        "helperPod.yaml": json.dumps(helper),
    }
    return _object("v1", "ConfigMap", "local-path-config", _STORAGE) | {"data": data}


def _provisioner() -> dict[str, Any]:
    namespace = {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}
    command = ["local-path-provisioner", "start", "--config", "/etc/config/config.json"]
    container = {
        "name": "provisioner",
        "image": PROVISIONER_IMAGE,
        "imagePullPolicy": "Never",
        "command": [*command, "--helper-image", HELPER_IMAGE, "--service-account-name", "provisioner"],
        "env": [namespace, {"name": "CONFIG_MOUNT_PATH", "value": "/etc/config/"}],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/config/"}],
    }
    spec = {
        "serviceAccountName": "provisioner",
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "local-path-config"}}],
    }
    labels = {"app": "local-path-provisioner"}
    return _object("apps/v1", "Deployment", "local-path-provisioner", _STORAGE) | {
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        }
    }
