"""Who must not get in (each sentence of the specification is a test), asked of a real server."""

import os
import socket
import stat

import numpy as np
import pytest

from imprint.core.errors import UsageError
from imprint.serve.security import Sessions, Settings, addresses_of_machine, check_origin, read_secret
from serve_helpers import png

IMAGE = png(np.zeros((8, 8), dtype=np.uint8))
TEACHES = "/api/session/code"  # stands for all unsafe methods of the page
TOKEN = "long enough to be no guess"


@pytest.fixture(scope="module")
def cookie(server):
    """The session of a browser that opened the address that was printed."""
    answer = server.get(f"/login?code={server.code}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    return answer.headers["Set-Cookie"].partition(";")[0]


def own_origin(server):
    return f"http://127.0.0.1:{server.port}"


def is_listening(address, port):
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


# 1


def test_without_host_only_the_loopback_listens(server):
    assert is_listening("127.0.0.1", server.port)
    others = [address for address in addresses_of_machine() if not address.startswith("127.")]
    assert not any(is_listening(address, server.port) for address in others)
    assert not any("warning" in line for line in server.lines)


def test_another_host_warns_and_always_demands_the_token(started, onnx_file):
    server = started(onnx_file, "--host", "0.0.0.0", wait="/healthz")
    assert any(line.startswith("warning: --host 0.0.0.0: other machines") for line in server.lines)
    assert server.predict(IMAGE).status == 401
    for path in ("/v1/model", "/metrics", "/docs", "/openapi.json", "/api/project"):
        assert server.get(path).status == 401
    assert server.predict(IMAGE, Authorization="Bearer wrong").status == 401
    assert [server.get(path).status for path in ("/healthz", "/readyz", "/")] == [200, 200, 200]
    cookie = server.get(f"/login?code={server.code}").headers["Set-Cookie"].partition(";")[0]
    assert server.get("/v1/model", headers={"Cookie": cookie}).status == 200
    for address in addresses_of_machine():
        assert server.get("/", host=f"{address}:{server.port}").status == 200
    assert server.get("/", host="evil.test").status == 421
    # A browser leaves Sec-Fetch-Site out on a plain http address of the local network: Origin decides.
    asked = {"Cookie": cookie, "Origin": f"http://{addresses_of_machine()[0]}:{server.port}"}
    assert server.ask("POST", TEACHES, b"", asked).status == 200
    assert server.ask("POST", TEACHES, b"", asked | {"Origin": "http://evil.test"}).status == 403


def test_a_token_of_the_command_line_is_demanded_on_this_machine_too(started, onnx_file):
    server = started(onnx_file, wait="/healthz", IMPRINT_TOKEN=TOKEN)
    assert server.predict(IMAGE).status == 401
    assert server.predict(IMAGE, Authorization=f"Bearer {TOKEN}").status == 200
    assert server.ask("POST", TEACHES, b"", {"Authorization": f"Bearer {TOKEN}"}).status == 200
    assert not any(TOKEN in line for line in server.lines)


# 2


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:8000", "127.0.0.1.evil.test", "", "localhost@evil", "[::2]", "192.0.2.1"]
)
def test_a_host_that_is_not_ours_is_misdirected(server, host):
    answer = server.get("/", host=host)
    assert (answer.status, answer.kind) == (421, "application/problem+json")
    # Comparing Host with Origin would let this in.
    assert server.ask("POST", "/v1/predict", IMAGE, {"Origin": f"http://{host}"}, host=host).status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:8000", "localhost."])
def test_names_of_this_machine_are(server, host):
    assert server.get("/", host=host).status == 200


def test_two_hosts_are_none(server):
    raw = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\nConnection: close\r\n\r\n"
    assert server.raw(raw)[0].startswith(b"HTTP/1.1 421")


def test_names_can_be_allowed(started, onnx_file):
    server = started(onnx_file, "--allow-host", "imprint.example", "--allow-origin", "https://app.example")
    assert server.get("/", host="imprint.example").status == 200
    assert server.get("/", host="other.example").status == 421
    # 6: CORS for that origin alone, and never with credentials.
    allowed = server.predict(IMAGE, Origin="https://app.example", Sec_Fetch_Site="cross-site")
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert allowed.status == 200
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    preflight = server.ask("OPTIONS", "/v1/predict", headers=asked)
    assert (preflight.status, preflight.headers["Access-Control-Allow-Origin"]) == (204, "https://app.example")
    other = server.predict(IMAGE, Origin="https://evil.example", Sec_Fetch_Site="cross-site")
    assert other.status == 403
    for answer in (allowed, preflight, other):
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert answer.headers["Access-Control-Allow-Origin"] != "*"
        assert answer.headers["Vary"] == "Origin"
    assert other.headers["Access-Control-Allow-Origin"] is None
    # Its pages have no session, whatever cookies their browser sends.
    code = server.get(f"/login?code={server.code}").headers["Set-Cookie"].partition(";")[0]
    assert server.ask("POST", TEACHES, b"", {"Origin": "https://app.example", "Cookie": code}).status == 401


@pytest.mark.parametrize("text", ["*", "app.example", "https://a.example/path", "null", ""])
def test_an_origin_is_named(text):
    with pytest.raises(UsageError):
        check_origin(text)


# 3


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://127.0.0.1:{port}"}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:{port}"}, 403),
        ({}, 401),  # curl with a cookie, and no token
    ],
)
def test_unsafe_methods_need_the_same_origin(server, cookie, headers, status):
    headers = {name: value.replace("{port}", str(server.port)) for name, value in headers.items()}
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        found = server.ask(method, TEACHES, b"", headers | {"Cookie": cookie}).status
        assert found == (405 if status == 200 and method != "POST" else status)


def test_programs_teach_with_the_token_and_no_page_does(server, cookie):
    own = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
    token = server.ask("POST", TEACHES, b"", own).json["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert server.ask("POST", TEACHES, b"", bearer).status == 200
    assert server.ask("POST", TEACHES, b"", bearer | {"Origin": "http://evil.test"}).status == 403
    assert server.ask("POST", TEACHES, b"", {"Authorization": f"Bearer {token}x"}).status == 401
    assert server.ask("POST", TEACHES, b"").status == 401
    assert server.predict(IMAGE).status == 200  # answers need no token on this machine


# 4 and 5


def test_a_top_level_visit_from_another_site_works(server):
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    answer = server.get("/", headers=visit)
    assert (answer.status, answer.kind.partition(";")[0]) == (200, "text/html")
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "asked",
    [
        ("POST", TEACHES, "application/x-www-form-urlencoded"),
        ("POST", TEACHES, "text/plain"),
        ("POST", "/api/undo", "text/plain"),
        ("POST", "/v1/predict", "multipart/form-data; boundary=x"),
        ("GET", "/api/project", ""),
    ],
)
def test_a_page_on_another_port_gets_nothing(server, cookie, asked):
    """Browsers send the cookie along: another port of this machine is the same site."""
    method, path, kind = asked
    for site in ("same-site", "cross-site"):
        headers = {"Cookie": cookie, "Sec-Fetch-Site": site, "Content-Type": kind}
        headers |= {"Origin": "http://127.0.0.1:9"} if method == "POST" else {}
        assert server.ask(method, path, b"x=1", headers).status == 403


# 7


def test_a_code_starts_one_session(started, onnx_file, tmp_path):
    server = started(onnx_file, folder=tmp_path / "data")
    assert server.get("/login?code=guess").status == 403
    answer = server.get(f"/login?code={server.code}")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"imprint-{server.port}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert server.get(f"/login?code={server.code}").status == 403  # once
    signed = {"Cookie": cookie.partition(";")[0], "Sec-Fetch-Site": "same-origin"}
    another = server.ask("POST", TEACHES, b"", signed).json["address"]
    assert another.startswith(f"http://127.0.0.1:{server.port}/login?code=")
    assert server.get(another[another.index("/login") :]).status == 303
    ended = server.ask("POST", "/api/session/end", b"", signed)
    assert (ended.status, "Max-Age=0" in ended.headers["Set-Cookie"]) == (204, True)
    secret = tmp_path / "data" / "imprint" / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert server.stop() == 0
    assert not any(signed["Cookie"].partition("=")[2] in line for line in server.lines)
    again = started(onnx_file, "--port", server.port, folder=tmp_path / "data")
    assert again.ask("POST", TEACHES, b"", signed).status == 200  # the secret survived


def test_secrets_are_made_once_and_compared_whole(tmp_path):
    assert read_secret(tmp_path) == read_secret(tmp_path)
    sessions = Sessions(read_secret(tmp_path), 8000)
    cookie = sessions.cookie_header(secure=True).partition(";")[0].encode()
    assert sessions.holds(b"a=b; " + cookie)
    assert not sessions.holds(cookie[:-1])
    assert not sessions.holds(b"imprint-8000=")
    assert not Sessions(read_secret(tmp_path), 8001).holds(cookie)
    assert not sessions.redeem("")
    os.truncate(tmp_path / "secret", 3)
    assert len(read_secret(tmp_path)) == 32


# 8


def test_headers_of_every_answer(server):
    answers = [server.get(path) for path in ("/", "/docs", "/v1/model", "/nothing", "/api/project")]
    answers += [server.get("/", host="evil.test"), server.predict(b""), server.ask("POST", "/v1/predict", b"")]
    for answer in answers:
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy == {
            "default-src": "'self'",
            "script-src": "'self'",
            "img-src": "'self' blob:",
            "media-src": "'self' blob:",
            "form-action": "'self'",
            "object-src": "'none'",
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
        }
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Access-Control-Allow-Origin"] is None
        assert len(answer.headers["X-Request-Id"]) >= 16
        assert "uvicorn" not in str(answer.headers)


def test_pages_have_no_inline_script(server):
    for path in ("/", "/docs"):
        text = server.get(path).content.decode()
        assert "<script>" not in text
        assert "onclick" not in text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text


# 12


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/..%2f..%2fapp.py", "/static/",
     "/etc/passwd", "//etc/passwd", "/static/%00", "/static/index.html%00.js", "/static/..\\app.py"],
)  # fmt: skip
def test_no_path_reaches_the_file_system(server, path):
    assert server.get(path).status in (400, 404)


def test_static_files_were_read_at_the_start(server):
    page = server.get("/")
    assert page.status == 200
    again = server.get("/", headers={"If-None-Match": page.headers["ETag"]})
    assert (again.status, again.content) == (304, b"")
    assert server.ask("POST", "/", b"").status == 405
    assert server.ask("HEAD", "/").status == 200


def test_the_process_opens_no_outward_connection(started, onnx_file, tmp_path):
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import socket, sys\n"
        "def refuse(self, address):\n"
        "    print('outward', address, file=sys.stderr, flush=True)\n"
        "    raise OSError('outward')\n"
        "socket.socket.connect = socket.socket.connect_ex = refuse\n"
    )
    path = os.pathsep.join([str(patch), os.environ.get("PYTHONPATH", "")])
    server = started(onnx_file, "--host", "0.0.0.0", wait="/healthz", PYTHONPATH=path, IMPRINT_TOKEN=TOKEN)
    bearer = f"Bearer {TOKEN}"
    for query in ("", "?url=http://192.0.2.1/a.png", "?path=/etc/passwd"):
        assert server.predict(IMAGE, query=query, Authorization=bearer).status == 200
    remote = b'{"base64": "http://192.0.2.1/a.png"}'
    assert server.predict(remote, "application/json", Authorization=bearer).status == 422
    assert server.predict(b'{"path": "/etc/passwd"}', "application/json", Authorization=bearer).status == 422
    assert server.get("/metrics", headers={"Authorization": bearer}).status == 200
    assert not any("outward" in line for line in server.lines)


# 18


def test_errors_carry_an_id_and_no_path_of_this_machine(server, onnx_file):
    answer = server.predict(b"no image")
    assert answer.json["id"] == answer.headers["X-Request-Id"]
    given = server.predict(b"", X_Request_Id="from-a-proxy.1")
    assert given.headers["X-Request-Id"] == given.json["id"] == "from-a-proxy.1"
    assert server.predict(b"", X_Request_Id="a b<c>").headers["X-Request-Id"] != "a b<c>"
    everything = [server.predict(b"no"), server.get("/nothing"), server.get("/docs"), server.get("/v1/model")]
    for one in everything:
        assert str(onnx_file.parent).encode() not in one.content
        assert b"Traceback" not in one.content
        assert b"/site-packages" not in one.content


def test_settings_write_origins_as_browsers_do():
    assert "http://127.0.0.1:8000" in Settings().origins()
    assert "http://localhost" in Settings(port=80).origins()
    assert "http://[::1]:8000" in Settings().origins()
    assert {"http://localhost:8000"} <= Settings(host="0.0.0.0").origins()
