"""Waits until an endpoint responds, and reports why if it does not."""

import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from finetune_cluster.errors import ClusterError

_LINES_OF_BLAME = 15


def wait_until(
    ready: Callable[[], bool], what: str, *, seconds: float, alive: Callable[[], bool] = lambda: True
) -> None:
    """Poll until `ready`; fail early when `alive` turns false."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not alive():
            raise ClusterError(f"{what} ended before it was ready")
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} was not ready after {seconds:.0f} s")
        time.sleep(0.1)


def answers(url: str, *, authority: Path | None = None, token: str = "", timeout: float = 3) -> bool:
    """Whether an HTTP(S) GET gives 200."""
    request = urllib.request.Request(url)  # noqa: S310  # our own addresses only
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    context = ssl.create_default_context(cafile=str(authority)) if authority else None
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(request, timeout=timeout) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def healthy(url: str, *, authority: Path, token: str) -> bool:
    """Whether an address answers 200; "" is always healthy."""
    return not url or answers(url, authority=authority, token=token)


def last_lines(log: Path) -> str:
    """The end of a log, indented, for an error message."""
    if not log.exists():
        return f"  ({log} does not exist)"
    lines = log.read_text(errors="replace").splitlines()[-_LINES_OF_BLAME:]
    return "\n".join(f"  {line}" for line in lines)
