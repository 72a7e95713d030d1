"""Ports for servers that tests start."""

import random
import socket

_RANGE = range(10_000, 30_000)
"""Below the ports that Linux gives to outgoing connections and above those of known services: a port found
here stays free until its server binds it, as no client of another test can be given it in between."""

_given: set[int] = set()


def free_port() -> int:
    """One that nothing listens on, and that this process was not given before.

    Raises:
        AssertionError: none was found.
    """
    for port in random.SystemRandom().sample(_RANGE, 100):
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise AssertionError(f"no free port among a hundred of {_RANGE.start} to {_RANGE.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True
