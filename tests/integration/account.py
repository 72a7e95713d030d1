"""A ServiceAccount with exactly the rights that the chart gives the operator, in chosen namespaces."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chart.rendering import Rendered
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.credentials import render_kubeconfig
from integration.operator_rig import Rest

Json = dict[str, Any]

_NAMESPACE = "default"
_ROLES = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles"
_BINDINGS = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings"


@dataclass(frozen=True)
class Account:
    """The ServiceAccount and the namespaces in which it has the operator's rights."""

    server: ApiServer
    rest: Rest
    name: str

    @classmethod
    def make(cls, server: ApiServer, rest: Rest, name: str) -> "Account":
        rest("POST", f"/api/v1/namespaces/{_NAMESPACE}/serviceaccounts", {"metadata": {"name": name}})
        return cls(server, rest, name)

    def grant(self, namespace: str) -> None:
        """Create the chart's Role and its binding."""
        rendered = Rendered.of({"rbac": {"scope": "namespaces", "namespaces": ["team"]}})
        (role,) = [one for one in rendered.all("Role") if one["metadata"]["namespace"] == "team"]
        self.rest("POST", _ROLES.format(namespace), role | {"metadata": {"name": self.name}})
        subject = {"kind": "ServiceAccount", "name": self.name, "namespace": _NAMESPACE}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": self.name}
        body = {"metadata": {"name": self.name}, "roleRef": reference, "subjects": [subject]}
        self.rest("POST", _BINDINGS.format(namespace), body)

    def revoke(self, namespace: str) -> None:
        """Delete both."""
        for path in (_BINDINGS, _ROLES):
            self.rest("DELETE", f"{path.format(namespace)}/{self.name}")

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig with which the operator uses this account."""
        path = f"/api/v1/namespaces/{_NAMESPACE}/serviceaccounts/{self.name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
        token = self.rest("POST", path, body | {"spec": {"expirationSeconds": 7200}})["status"]["token"]
        file = folder / "kubeconfig"
        file.write_text(render_kubeconfig(self.server.url, self.server.ca.read_text(), self.name, token))
        return file
