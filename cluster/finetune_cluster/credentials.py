"""The cluster's secrets: an authority, the API server's certificate, one token per user, kubeconfigs."""

import base64
import datetime
import ipaddress
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finetune_cluster.errors import ClusterError

_IN_CLUSTER_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
_VALID = datetime.timedelta(days=3650)


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
        """With which the API server shows itself to the kubelet, for logs and exec."""
        return self.folder / "kubelet-client.crt", self.folder / "kubelet-client.key"

    @property
    def service_account(self) -> tuple[Path, Path]:
        """Public and private key of ServiceAccount tokens."""
        return self.folder / "service-account.pub", self.folder / "service-account.key"

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
    authority = _Authority.create("finetune-cluster")
    made.ca.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    authority.issue(made.server, "kube-apiserver", addresses=(*addresses, *_IN_CLUSTER_NAMES))
    authority.issue(made.kubelet_client, "kube-apiserver-kubelet-client", group="system:masters")
    _write_service_account_keys(*made.service_account)
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


@dataclass(frozen=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, name: str) -> "_Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    def issue(
        self, files: tuple[Path, Path], name: str, *, group: str = "", addresses: Sequence[str] = ()
    ) -> None:
        """Write a certificate and its key; with addresses it serves them, without it is a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if group:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        usage = ExtendedKeyUsageOID.SERVER_AUTH if addresses else ExtendedKeyUsageOID.CLIENT_AUTH
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            _builder(x509.Name(attributes), self.certificate.subject, key.public_key())
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(authority, critical=False)
        )
        if addresses:
            names = x509.SubjectAlternativeName([_general_name(address) for address in addresses])
            builder = builder.add_extension(names, critical=False)
        certificate_file, key_file = files
        certificate_file.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        _write_private(key_file, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + _VALID)
    )


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _write_service_account_keys(public: Path, private: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _write_private(private, key)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
