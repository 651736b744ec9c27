"""Who may in: the checks of each request before anything else sees it, sessions, and the headers of each answer.

The check of unsafe methods is that of Go's `http.CrossOriginProtection` (golang/go#73626): browsers say by
Sec-Fetch-Site where a request comes from, and where they leave that out, Origin is compared with the configuration.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import secrets
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imprint.core.errors import UsageError
from imprint.serve.problems import Problem

LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
MAX_PIXELS = 40_000_000
POLICY = (
    "default-src 'self'; script-src 'self'; img-src 'self' blob:; media-src 'self' blob:; form-action 'self'; "
    "object-src 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
MAX_CODES = 16  # that wait to be used
OPEN_PATHS = frozenset(("/", "/login", "/healthz", "/readyz", "/favicon.ico"))
HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>\d{1,5}))?")

Headers = Mapping[bytes, bytes]


@dataclass(frozen=True)
class Settings:
    """What the command line settled; `demands_token` even of programs on this machine."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    cert: Path | None = None
    key: Path | None = None
    demands_token: bool = False

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def scheme(self) -> str:
        """Such as https."""
        return "http" if self.cert is None else "https"

    def names(self) -> frozenset[str]:
        """Give the names and addresses by which it may be asked, in small letters."""
        bound = addresses_of_machine() if is_any_address(self.host) else (self.host.lower(),)
        return LOCAL_NAMES | {*bound, *(name.lower().strip("[]") for name in self.allow_hosts)}

    def origins(self) -> frozenset[str]:
        """Give the origins whose pages may ask: its own, and those that were allowed."""
        own = {origin(self.scheme, name, self.port) for name in self.names()}
        return frozenset(own) | {one.lower().rstrip("/") for one in self.allow_origins}


def origin(scheme: str, name: str, port: int) -> str:
    """Write an origin as browsers do: the port of the scheme is left out."""
    name = f"[{name}]" if ":" in name else name
    return f"{scheme}://{name}" + ("" if port == {"http": 80, "https": 443}[scheme] else f":{port}")


def is_loopback(host: str) -> bool:
    """Tell an address or name of this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_any_address(host: str) -> bool:
    """Tell 0.0.0.0 and ::, which stand for each address of the machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def addresses_of_machine() -> tuple[str, ...]:
    """List the machine's own IPv4 addresses, those of the loopback last; nothing is sent to learn them."""
    found = list[str]()
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                try:
                    answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR, linux/sockios.h
                except OSError:  # an interface without IPv4
                    continue
                found.append(socket.inet_ntoa(answer[20:24]))
    except (ImportError, OSError):
        found = []
    if not found:
        try:
            found = socket.gethostbyname_ex(socket.gethostname())[2]
        except OSError:
            found = []
    return tuple(sorted(dict.fromkeys(found), key=is_loopback))


def check_origin(text: str) -> str:
    """Read an --allow-origin; raises `UsageError` for what is no single origin."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        cause = "an origin is a scheme, a name and perhaps a port, and each must be named"
        raise UsageError(f"origin {text}", "--allow-origin", cause, "Give one such as https://example.org.")
    return text.lower().rstrip("/")


class Sessions:
    """The secret of this computer, the sessions that it signs, and one-time codes that start one."""

    def __init__(self, secret: bytes, port: int) -> None:
        self.cookie = f"imprint-{port}"
        self._secret = secret
        self._codes = dict[str, None]()

    @property
    def token(self) -> str:
        """What programs send as `Authorization: Bearer`, where --token gives no other."""
        return self._signed("token")

    def _signed(self, purpose: str) -> str:
        return hmac.new(self._secret, purpose.encode(), sha256).hexdigest()

    def new_code(self) -> str:
        """Make a code that starts one session."""
        code = secrets.token_urlsafe(24)
        self._codes[code] = None
        while len(self._codes) > MAX_CODES:
            del self._codes[next(iter(self._codes))]
        return code

    def redeem(self, code: str) -> bool:
        """Use up a code; false where it is none, or was used."""
        found = [one for one in self._codes if hmac.compare_digest(one.encode(), code.encode("utf-8", "replace"))]
        for one in found:
            del self._codes[one]
        return bool(found)

    def cookie_header(self, secure: bool, ended: bool = False) -> str:
        """Write Set-Cookie for a session that begins, or has ended."""
        value = "" if ended else self._signed(self.cookie)
        age = 0 if ended else 30 * 86400
        return f"{self.cookie}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{'; Secure' * secure}"

    def holds(self, cookies: bytes) -> bool:
        """Whether a Cookie header holds a session of this server."""
        try:
            found = SimpleCookie(cookies.decode("latin-1")).get(self.cookie)
        except CookieError:
            return False
        value = "" if found is None else found.value
        return hmac.compare_digest(value.encode("latin-1", "replace"), self._signed(self.cookie).encode())


def read_secret(folder: Path) -> bytes:
    """Read the secret of this computer, or make it; only its user can read the file."""
    path = folder / "secret"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        if len(content) == 32:
            return content
        fresh = secrets.token_bytes(32)
        temporary = folder / f".secret.{os.getpid()}"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(fresh)
        try:
            os.link(temporary, path)  # of two that start at once, the first one's stays
        except FileExistsError:
            if len(path.read_bytes()) != 32:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path.read_bytes()
    except OSError as error:
        cause = f"it cannot be kept ({error.strerror or error})"
        raise UsageError("secret", str(path), cause, "Make the folder writable.") from None


class Door:
    """The checks of a request, in order: Host, where it comes from, who asks."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self.settings, self.sessions = settings, sessions
        self._names, self._origins = settings.names(), settings.origins()
        self._allowed = {one.encode() for one in settings.allow_origins}
        self._known_hosts = set[bytes]()

    def check(self, scope: Mapping[str, Any], headers: Headers, hosts: int) -> None:
        """Raise a `Problem` unless the request may go on; `hosts` counts its Host headers."""
        self._check_host(headers.get(b"host", b""), hosts, scope.get("server"))
        path, method = scope["path"], scope["method"]
        teaching = path == "/api" or path.startswith("/api/")
        if method not in SAFE_METHODS:
            self._check_origin(headers)
        elif teaching and headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            self._refuse_site(headers)
        if teaching or (self.settings.demands_token and path not in OPEN_PATHS and not path.startswith("/static/")):
            self._check_credentials(headers, changes=teaching and method not in SAFE_METHODS)

    def _check_host(self, host: bytes, hosts: int, server: Any) -> None:
        if hosts == 1 and host in self._known_hosts:
            return
        match = HOST.fullmatch(host.decode("latin-1")) if hosts == 1 else None
        name = match["name"].strip("[]").lower().removesuffix(".") if match else ""
        if name not in self._names and not (name and _is_reached_by(server, name)):
            detail = "This server is not asked by that name. Start it with --allow-host NAME to let it be."
            raise Problem(421, "Misdirected request", detail)
        if name in self._names and len(self._known_hosts) < 64:
            self._known_hosts.add(host)

    def _check_origin(self, headers: Headers) -> None:
        site, source = headers.get(b"sec-fetch-site"), headers.get(b"origin")
        if source is not None and source in self._allowed:
            return
        if site is not None:
            if site != b"same-origin":
                self._refuse_site(headers)
        elif source is not None and source.decode("latin-1").lower() not in self._origins:
            self._refuse_site(headers)

    def _refuse_site(self, headers: Headers) -> None:
        if headers.get(b"origin") in self._allowed:
            return
        detail = "A page of another place asks, and only pages of this server and of --allow-origin may."
        raise Problem(403, "Request from another site", detail)

    def _check_credentials(self, headers: Headers, changes: bool) -> None:
        has_source = b"sec-fetch-site" in headers or b"origin" in headers
        if self._has_token(headers) or ((has_source or not changes) and self._has_session(headers)):
            return
        detail = "Open the address that imprint serve printed, or send the header Authorization: Bearer TOKEN."
        raise Problem(401, "Not signed in", detail, {"WWW-Authenticate": "Bearer"})

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.settings.token.encode())

    def _has_session(self, headers: Headers) -> bool:
        """Whether a page of this server asks that has signed in; those of allowed origins need the token."""
        return headers.get(b"origin") not in self._allowed and self.sessions.holds(headers.get(b"cookie", b""))

    def cors(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Give the headers that let a page of an allowed origin read an answer; never with credentials."""
        source = headers.get(b"origin")
        if not self._allowed:
            return []
        vary = [(b"vary", b"Origin")]
        if source is None or source not in self._allowed:
            return vary
        return [
            *vary,
            (b"access-control-allow-origin", source),
            (b"access-control-expose-headers", b"X-Request-Id, Retry-After"),
            (b"cross-origin-resource-policy", b"cross-origin"),
        ]

    def is_preflight(self, method: str, headers: Headers) -> bool:
        """Tell the question of a browser whether a page of an allowed origin may ask."""
        asked = b"access-control-request-method" in headers
        return method == "OPTIONS" and asked and headers.get(b"origin") in self._allowed


PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST, PATCH, DELETE"),
    (b"access-control-allow-headers", b"Authorization, Content-Type"),
    (b"access-control-max-age", b"600"),
]


def _is_reached_by(server: Any, name: str) -> bool:
    """Whether a name is the very address of this machine by which the request came."""
    try:
        reached = ipaddress.ip_address(server[0] if server else "")
        return ipaddress.ip_address(name) in (reached, getattr(reached, "ipv4_mapped", None))
    except ValueError:
        return False


def header_map(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], int]:
    """Give a request's headers by name, the last of a name, and how many Host headers there are."""
    pairs = list(pairs)
    return dict(pairs), sum(name == b"host" for name, _ in pairs)
