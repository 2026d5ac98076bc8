"""A quick check whether the network is there; the hub's libraries retry for minutes before they give up."""

from __future__ import annotations

import socket
import threading
import urllib.parse
import urllib.request


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether a connection to the host of `url` (or to its proxy) opens within `seconds`."""
    parts = urllib.parse.urlsplit(url)
    proxy = None if _bypassed(parts.hostname or "") else urllib.request.getproxies().get(parts.scheme)
    if proxy:
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    host, port = parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 443)
    opened = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
        except (OSError, ValueError):
            return
        opened.set()

    # Name resolution has no timeout of its own: it runs in a thread that is left behind if it hangs.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return opened.is_set()


def _bypassed(host: str) -> bool:
    return bool(urllib.request.proxy_bypass(host))
