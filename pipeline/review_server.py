"""The review page over HTTP, for the person at this machine alone.

It listens on 127.0.0.1. A web page in the same browser can still send requests there, so the Host must be the local
address (a name that was made to point here has another: DNS rebinding), the Origin as well (cross-site requests),
and a path begins with a secret that only the printed address holds, which also keeps out other users of the machine.
Rows are hostile text: they travel as JSON, and the page puts them in as text, under a policy that runs no script
but its own and loads nothing.
"""

from __future__ import annotations

import errno
import hmac
import json
import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipeline.review_session import Session

PAGE = Path(__file__).with_name("review.html")
NONCE = "{{nonce}}"
"""Where the page names the scripts and styles that are its own."""

MOST_BYTES = 4 << 20
"""Of the body of one request."""


class ReviewServer(ThreadingHTTPServer):
    """Serves one session until it is shut down."""

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        """Raises ValueError where the port is taken; 0 takes a free one."""
        self.session = session
        self.secret = secrets.token_urlsafe(16)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "is in use" if error.errno == errno.EADDRINUSE else "needs privileges"
            raise ValueError(f"--port {port} {why}; --port 0 takes a free one") from None

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_port}/{self.secret}/"

    @property
    def hosts(self) -> set[str]:
        """What a request may call this server."""
        names = ("127.0.0.1", "localhost")
        return {f"{name}:{self.server_port}" for name in names} | (set(names) if self.server_port == 80 else set())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    timeout = 30
    server_version, sys_version = "r1-review", ""

    def do_GET(self) -> None:
        name = self._admitted()
        if name == "":
            nonce = secrets.token_urlsafe(16)
            page = PAGE.read_text(encoding="utf-8").replace(NONCE, nonce)
            self._reply(200, page.encode(), "text/html; charset=utf-8", f"'nonce-{nonce}'")
        elif name == "state":
            asked = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
            self._answer(*self.server.session.state(asked.get("at"), asked.get("after"), asked.get("choice")))
        elif name is not None:
            self._answer(404, {"error": "there is no such page"})

    def do_POST(self) -> None:
        name = self._admitted()
        if name is None:
            return
        if name != "verdict":
            self._answer(404, {"error": "there is no such page"})
        elif self.headers.get_content_type() != "application/json":
            self._answer(415, {"error": "expected application/json"})
        elif not (length := self.headers.get("Content-Length", "")).isdecimal() or len(length) > 12:
            self._answer(411, {"error": "the length of the body is missing"})
        elif int(length) > MOST_BYTES:
            self._answer(413, {"error": f"more than {MOST_BYTES} bytes"})
        else:
            self._answer(*self.server.session.judge(self.rfile.read(int(length))))

    def _admitted(self) -> str | None:
        """What the request asks for below the secret; None where it was refused."""
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site")
        local = {f"http://{host}" for host in self.server.hosts}
        if self.headers.get("Host") not in self.server.hosts:
            self._answer(403, {"error": "the Host is not the local address"})
        elif (origin is not None and origin not in local) or site not in (None, "same-origin", "none"):
            self._answer(403, {"error": "the request comes from another site"})
        else:
            _, _, rest = self.path.partition("/")
            secret, slash, name = rest.partition("?")[0].partition("/")
            if slash and hmac.compare_digest(secret.encode(), self.server.secret.encode()):
                return name
            self._answer(403, {"error": "the address is not the one that r1 review printed"})
        return None

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e")
        self._reply(status, text.encode(), "application/json", "'none'")

    def _reply(self, status: int, content: bytes, kind: str, own: str) -> None:
        policy = (
            f"default-src 'none'; script-src {own}; style-src {own}; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal shows what `r1 review` says."""
