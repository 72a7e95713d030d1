"""The cluster's secrets: an authority, the API server's certificate, one token per user, kubeconfigs."""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trustme import CA, LeafCert

from finetune_cluster.errors import ClusterError

_IN_CLUSTER_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
_CLIENT = "kube-apiserver-kubelet-client"


@dataclass(frozen=True)
class Credentials:
    """Files in one folder; `create` writes them, a later process finds them again by the folder alone."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def server(self) -> tuple[Path, Path]:
        return self.folder / "apiserver.crt", self.folder / "apiserver.key"

    @property
    def kubelet_client(self) -> tuple[Path, Path]:
        """The API server's client certificate for the kubelet, for logs and exec."""
        return self.folder / "kubelet-client.crt", self.folder / "kubelet-client.key"

    @property
    def service_account(self) -> tuple[Path, Path]:
        """Certificate, whose public key verifies ServiceAccount tokens, and the private key that signs them."""
        return self.folder / "service-account.crt", self.folder / "service-account.key"

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens.csv"

    def kubeconfig(self, user: str) -> Path:
        return self.folder / f"{user}.kubeconfig"

    def token(self, user: str) -> str:
        """The bearer token of a user of this cluster."""
        for line in self.tokens.read_text().splitlines():
            token, name, *_ = line.split(",")
            if name == user:
                return token
        raise ClusterError(f"{self.tokens} knows no user {user}; start the cluster again")


def create(folder: Path, server: str, addresses: Sequence[str], users: Mapping[str, str]) -> Credentials:
    """Write everything for an API server at URL `server`; `users` is {name: group, "" for none}."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    made = Credentials(folder)
    authority = CA(organization_name="finetune-cluster")
    authority.cert_pem.write_to_path(made.ca)
    _write(made.server, authority.issue_cert(*addresses, *_IN_CLUSTER_NAMES, common_name="kube-apiserver"))
    # a certificate without any alternative name is refused by Go
    client = authority.issue_cert(_CLIENT, common_name=_CLIENT, organization_name="system:masters")
    _write(made.kubelet_client, client)
    _write(made.service_account, authority.issue_cert("service-account"))
    tokens = {user: secrets.token_urlsafe(32) for user in users}
    made.tokens.write_text(
        "".join(f'{tokens[user]},{user},{user},"{group}"\n' for user, group in users.items())
    )
    for user in users:
        path = made.kubeconfig(user)
        path.write_text(render_kubeconfig(server, made.ca.read_text(), user, tokens[user]))
        path.chmod(0o600)
    return made


def render_kubeconfig(server: str, authority: str, user: str, token: str) -> str:
    """A kubeconfig in JSON (which is YAML), with everything inline so that it can be copied."""
    name = "finetune"
    data = base64.b64encode(authority.encode()).decode()
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": data}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "current-context": name,
        },
        indent=2,
    )


def _write(files: tuple[Path, Path], certificate: LeafCert) -> None:
    """Write a certificate and its private key."""
    certificate_file, key_file = files
    key_file.touch(mode=0o600)
    certificate.cert_chain_pems[0].write_to_path(certificate_file)
    certificate.private_key_pem.write_to_path(key_file)
