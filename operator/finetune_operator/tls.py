"""Where the progress endpoint's certificate is kept: the chart's Secret, a folder, or memory."""

import base64
import logging
import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finetune_core.settings import OperatorSettings
from finetune_operator.certificate import Certificate, keep_in_folder, make
from finetune_operator.cluster import Cluster
from finetune_operator.errors import ConflictError, SettingsError

logger = logging.getLogger(__name__)


async def certificate_of(settings: OperatorSettings, cluster: Cluster) -> Certificate:
    """The endpoint's certificate. Raises SettingsError when the Secret that should keep it does not exist."""
    host = urlsplit(settings.progress_url or "").hostname or "localhost"
    if settings.tls_secret:
        return await _keep_in_secret(settings.tls_secret, host, cluster)
    if settings.tls_folder:
        return keep_in_folder(Path(settings.tls_folder), host)
    return make(host)


async def _keep_in_secret(place: str, host: str, cluster: Cluster) -> Certificate:
    secret = await _secret(place, cluster)
    kept = _certificate_in(secret)
    if kept and kept.serves(host, datetime.now(UTC)):
        return kept
    made = make(host)
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in made.to_files().items()}
    try:
        await cluster.replace("Secret", secret | {"data": encoded})
    except ConflictError:
        return await _keep_in_secret(place, host, cluster)
    logger.info("created a certificate for %s and stored it in the Secret %s", host, place)
    return made


async def stored_certificate(place: str, cluster: Cluster) -> Certificate | None:
    """What the Secret `namespace/name` keeps; None before the operator has started for the first time."""
    return _certificate_in(await _secret(place, cluster))


async def _secret(place: str, cluster: Cluster) -> dict[str, Any]:
    namespace, _, name = place.partition("/")
    secret = await cluster.get("Secret", namespace, name)
    if secret is None:
        raise SettingsError(f"the Secret {place} does not exist; the chart creates it empty")
    return secret


def _certificate_in(secret: dict[str, Any]) -> Certificate | None:
    files = {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
    return Certificate.from_files(files)


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """The TLS settings of the endpoint."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory() as folder:  # ssl loads a chain from files only
        chain, key = Path(folder) / "chain", Path(folder) / "key"
        chain.write_text(certificate.certificate)
        key.touch(mode=0o600)
        key.write_text(certificate.key)
        context.load_cert_chain(chain, key)
    return context
