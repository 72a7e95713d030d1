"""The endpoint's certificate: accepted by strict clients, kept over restarts, made anew when it does not do."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finetune_operator.certificate import (
    CA_KEY,
    CERTIFICATE_KEY,
    PRIVATE_KEY,
    Certificate,
    keep_in_folder,
    make,
)
from finetune_operator.tls import server_context

NOW = datetime.now(UTC)


def handshake(certificate: Certificate, host: str, authority: str | None = None) -> str:
    """A real TLS handshake with the flags of Python 3.13's defaults; the version that was agreed on."""
    client = ssl.create_default_context(cadata=authority or certificate.authority)
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server_context(certificate).wrap_socket(theirs, server_side=True) as one:
                one.recv(1)
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=host) as one:
            one.send(b"x")
            return str(one.version())
    finally:
        ours.close()
        thread.join(5)


@pytest.mark.parametrize("host", ["finetune-operator.finetune.svc", "127.0.0.1", "localhost", "::1"])
def test_a_strict_client_accepts_it_for_its_host(host: str) -> None:
    assert handshake(make(host), host) == "TLSv1.3"


def test_a_strict_client_refuses_it_for_another_host_or_authority() -> None:
    certificate = make("operator.finetune")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate, "other.finetune")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate, "operator.finetune", make("operator.finetune").authority)


def test_a_folder_keeps_it_over_restarts_with_its_key_for_the_owner_only(tmp_path: Path) -> None:
    first = keep_in_folder(tmp_path / "tls", "localhost")
    assert keep_in_folder(tmp_path / "tls", "localhost") == first
    assert (tmp_path / "tls" / PRIVATE_KEY).stat().st_mode & 0o077 == 0


def test_another_host_needs_another_one(tmp_path: Path) -> None:
    first = keep_in_folder(tmp_path, "localhost")
    assert keep_in_folder(tmp_path, "10.0.0.1") != first


@pytest.mark.parametrize("file", [CA_KEY, CERTIFICATE_KEY, PRIVATE_KEY])
@pytest.mark.parametrize("text", ["", "junk", "of another making"])
def test_a_half_written_one_is_made_anew(tmp_path: Path, file: str, text: str) -> None:
    first = keep_in_folder(tmp_path, "localhost")
    (tmp_path / file).write_text(make("localhost").to_files()[file] if "another" in text else text)
    made = keep_in_folder(tmp_path, "localhost")
    assert made != first
    assert handshake(made, "localhost")


def test_it_is_renewed_a_month_before_its_end() -> None:
    certificate = make("localhost", NOW)
    assert certificate.serves("localhost", NOW)
    assert certificate.serves("localhost", NOW + timedelta(days=3600))
    assert not certificate.serves("localhost", NOW + timedelta(days=3625))
