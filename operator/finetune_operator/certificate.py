"""The certificate of the progress endpoint: created once, kept in a Secret or a folder, so that running pods can
still report after a restart of the operator.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = timedelta(days=3650)
_RENEW_BEFORE = timedelta(days=30)
CA_KEY, CERTIFICATE_KEY, PRIVATE_KEY = "ca.crt", "tls.crt", "tls.key"


@dataclass(frozen=True)
class Certificate:
    """PEM texts: the authority that trainers trust, and the endpoint's certificate and key."""

    authority: str
    certificate: str
    key: str

    def to_files(self) -> dict[str, str]:
        """The certificate as keys of a Secret or files of a folder."""
        return {CA_KEY: self.authority, CERTIFICATE_KEY: self.certificate, PRIVATE_KEY: self.key}

    @classmethod
    def from_files(cls, files: dict[str, str]) -> "Certificate | None":
        """The stored certificate; None if a part is missing."""
        texts = [files.get(name) for name in (CA_KEY, CERTIFICATE_KEY, PRIVATE_KEY)]
        return cls(*map(str, texts)) if all(texts) else None

    def serves(self, host: str, now: datetime) -> bool:
        """Whether it is complete and valid for this host, now and for some time."""
        try:
            leaf = x509.load_pem_x509_certificate(self.certificate.encode())
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            fits = self._fits_together(leaf)
        except (ValueError, x509.ExtensionNotFound):
            return False
        return fits and leaf.not_valid_after_utc - _RENEW_BEFORE > now and _general_name(host) in names

    def _fits_together(self, leaf: x509.Certificate) -> bool:
        """Whether all three parts belong together: the files are written one by one."""
        key = serialization.load_pem_private_key(self.key.encode(), password=None)
        try:
            leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(self.authority.encode()))
        except (InvalidSignature, TypeError):
            return False
        return key.public_key() == leaf.public_key()


def make(host: str, now: datetime | None = None) -> Certificate:
    """A new authority and a certificate for `host`; the authority's key is discarded."""
    now = now or datetime.now(UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = _name("finetune-operator")
    authority = _sign(
        _builder(name, name, authority_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True),
        authority_key,
    )
    leaf = _sign(
        _builder(_name("finetune-operator-progress"), name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        ),
        authority_key,
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(_pem(authority), _pem(leaf), secret.decode())


def keep_in_folder(folder: Path, host: str) -> Certificate:
    """The certificate in `folder`, created if there is no valid one for `host`."""
    files = {path.name: path.read_text() for path in folder.glob("*") if path.is_file()}
    kept = Certificate.from_files(files)
    if kept and kept.serves(host, datetime.now(UTC)):
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    made = make(host)
    for name, text in made.to_files().items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(text)
    return made


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
