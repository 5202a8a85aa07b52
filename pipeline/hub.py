"""Whether the model Hub can be reached. Its client retries for minutes where there is no network; a check must not."""

from __future__ import annotations

import os
import socket
import urllib.parse

SECONDS = 2.0
"""How long a connection may take."""


def reachable(endpoint: str) -> bool:
    """Whether a connection to the endpoint's host can be made."""
    parts = urllib.parse.urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def offline_if_unreachable() -> None:
    """Make this process use what was fetched before, and fail at once for the rest, where there is no Hub.

    Of use only before the Hub's client is imported, which reads the environment once.
    """
    if not reachable(os.environ.get("HF_ENDPOINT") or "https://huggingface.co"):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
