"""Data at addresses, served by a server on this machine."""

import builtins
import functools
import json
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import polars
import pytest
from PIL import Image

import imprint
from helpers import refused, run_imprint
from imprint.core.errors import DataError, UsageError
from imprint.data import cache, remote
from imprint.data.load import parts
from imprint.data.remote import fetch, is_address, without_secrets
from imprint.data.shards import Shard
from imprint.models.bulk import predict_folder

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; what lies in `private` needs a token, `broken` fails, `short` ends early."""

    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        if "/private/" in self.path and "token=hush" not in self.path:
            self.send_error(403)
        elif "/broken/" in self.path:
            self.send_error(500)
        elif "/short/" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"PK")
                self.close_connection = True
        elif self.command == "HEAD":
            super().do_HEAD()
        else:
            super().do_GET()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory, digits):
    """Digits as class folders, as a .zip, and as two archives, on a server; gives its address and what it was asked."""
    root = tmp_path_factory.mktemp("served")
    for i in range(40):
        name = digits.class_names[digits.labels[i]]
        path = root / "photos" / name / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.pixels[i, 0]).save(path)
    (root / "private").mkdir()
    for place, chosen in (("all.zip", "*"), ("private/all.zip", "*"), ("part-0.zip", "[01]"), ("part-1.zip", "[2-9]")):
        with zipfile.ZipFile(root / place, "w") as archive:
            for file in sorted(root.glob(f"photos/{chosen}/*.png")):
                archive.write(file, file.relative_to(root / "photos"))
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=root)) as served:
        served.asked, served.root = [], root
        served.address = f"http://127.0.0.1:{served.server_port}"
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "cache"))


def test_a_file_is_copied_once(server):
    images = imprint.load(f"{server.address}/all.zip")
    assert (len(images), len(images.class_names)) == (40, 10)
    assert images.sources[0] == "all.zip/0/00.png"
    assert images.loaded_from.path == f"{server.address}/all.zip"
    server.asked.clear()
    assert imprint.load(f"{server.address}/all.zip").fingerprint == images.fingerprint
    assert not any(line.startswith("GET") for line in server.asked)


def test_a_changed_file_is_copied_anew(server):
    path = server.root / "changing.csv"
    path.write_text("label,pixel0\ncat,7\n")
    assert imprint.load(f"{server.address}/changing.csv").pixels.item() == 7
    path.write_text("label,pixel0\ncat,17\n")
    assert imprint.load(f"{server.address}/changing.csv").pixels.item() == 17


def test_a_folder_of_images(server):
    images = imprint.load(f"{server.address}/photos/")
    assert images.class_counts() == imprint.load(server.root / "photos").class_counts()
    assert images.sources[0] == f"{server.address}/photos/0/00.png"


def test_several_archives_by_braces(server):
    images = imprint.load(f"{server.address}/part-{{0..1}}.zip")
    assert (len(images), images.sources[-1].partition("/")[0]) == (40, "part-1.zip")
    assert parts(f"{server.address}/part-{{0..1}}.zip") == ()


def test_predicted_into_a_folder(server, model_file, tmp_path):
    local = imprint.Classifier.load(model_file).predict(str(server.root / "photos"))
    expected = {source[-8:]: name for source, name in zip(local.sources.tolist(), local.names, strict=True)}
    for i, data in enumerate(("photos/", "part-{0..1}.zip", "all.zip")):
        out = tmp_path / f"{i}"
        assert predict_folder(model_file, f"{server.address}/{data}", out)["said"] == 40
        rows = polars.concat([polars.read_parquet(path) for path in out.glob("*.parquet")])
        assert Counter(source.startswith(f"{server.address}/") for source in rows["source"]) == {True: 40}
        assert {source[-8:]: label for source, label in rows.select("source", "label").iter_rows()} == expected
        assert predict_folder(model_file, f"{server.address}/{data}", out)["said"] == 40
    assert not list(cache.remote_folder().glob("*"))  # shards are copied for as long as they are read


def test_no_secret_is_told_or_written(server, model_file, tmp_path, caplog):
    caplog.set_level("DEBUG", "imprint")
    address = f"{server.address.replace('//', '//me:hush@')}/private/all.zip?token=hush"
    done = run_imprint("show", address, cwd=tmp_path)
    assert "40 images" in done.stdout
    command = ["train", address, "--epochs", "1", "--set", "min_steps=1", "--run", "run", "--recipe", "quick"]
    done = run_imprint(*command, cwd=tmp_path)
    summary = run_imprint("predict", model_file, address, "-o", "out/", "--json", cwd=tmp_path)
    wrong = run_imprint("show", address.replace("all.zip", "no.zip"), cwd=tmp_path, status=2)
    told = [done.stdout, done.stderr, summary.stdout, summary.stderr, wrong.stderr, caplog.text]
    written = [p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*") if p.is_file() and "cache" not in p.parts]
    assert not [text for text in told + written if "hush" in text]
    origin = json.loads((tmp_path / "run/origin.json").read_text())
    assert origin["training"]["path"] == f"{server.address}/private/all.zip?…"
    rows = polars.read_parquet(next((tmp_path / "out").glob("*.parquet")))
    assert rows["source"][0] == f"{server.address}/private/all.zip?…/0/00.png"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nothing.zip", r"nothing is there \(404\)"),
        ("private/all.zip", r"the server refuses \(403\)"),
        ("broken/x.zip", r"the server answers 500"),
        ("short/x.zip", "it cannot be read"),
        ("nothing/", "there are no files in it"),
    ],
)
def test_what_a_server_says_is_told_in_one_line(server, tmp_path, place, words):
    with pytest.raises(DataError, match=words):
        imprint.load(f"{server.address}/{place}?token=secret")
    assert not list(cache.remote_folder().glob("*"))
    assert "secret" not in refused("show", f"{server.address}/{place}?token=secret", cwd=tmp_path)


def test_no_server_and_mistyped_addresses(tmp_path, monkeypatch):
    assert "the server cannot be reached" in refused("show", "http://127.0.0.1:9/x.zip", cwd=tmp_path)
    assert "Did you mean https?" in refused("show", "htps://host/x.zip", cwd=tmp_path)
    assert "Write s3://" in refused("show", "s3:/bucket/x.zip", cwd=tmp_path)
    for address in ("file:///etc/passwd", "simplecache::http://host/x.zip", "http://h/x.zip::file://y"):
        with pytest.raises((UsageError, DataError)):
            imprint.load(address)
    with pytest.raises(UsageError, match="are not chained"):
        imprint.load("http://h/x.zip::file://y")
    assert not is_address("c:/photos")
    assert not is_address("photos/x.zip")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    real = builtins.__import__

    def without(*names):
        def find(name, *rest, **options):
            if name.partition(".")[0] in names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *rest, **options)

        return find

    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "fsspec", raising=False)
        patch.setattr(builtins, "__import__", without("fsspec"))
        with pytest.raises(UsageError, match=r"package fsspec .* Install fsspec and aiohttp by pip"):
            imprint.load("https://host/x.zip")
    with pytest.raises(UsageError, match=r"package s3fs at this Python: it is missing, and s3:// needs it"):
        imprint.load("s3://bucket/x.zip")


def test_a_server_that_fails_is_asked_again(server, monkeypatch):
    asked = []

    class System:
        def cat(self, paths, on_error):
            asked.append(list(paths))
            return {p: b"x" if p == "a" or len(asked) > 1 else OSError("busy") for p in paths if p != "c"} | {
                p: FileNotFoundError(p) for p in paths if p == "c"
            }

    monkeypatch.setattr(remote, "PAUSES", (0, 0, 0))
    found = remote.Remote("http://h/photos/", System(), "").read(["a", "b", "c"])
    assert found[:2] == [b"x", b"x"]
    assert found[2].cause == "nothing is there"
    assert asked == [["a", "b", "c"], ["b"]]


def test_secrets_in_addresses():
    assert Shard(("https://host/photo?token=hush",)).name == "photo"
    for given, told in (
        ("https://me:pw@host/a.zip?X-Amz-Signature=1#x", "https://host/a.zip?…"),
        ("imprint train https://host/a.zip", "imprint train https://host/a.zip"),
        ("s3://bucket/a#1", "s3://bucket/a?…"),
        ("no address: a@b?c", "no address: a@b?c"),
    ):
        assert without_secrets(given) == told


def test_copies_are_bounded_and_cleared(server, monkeypatch):
    first = fetch(f"{server.address}/all.zip")
    assert [entry.name for entry in cache.entries()] == ["all.zip"]
    monkeypatch.setenv("IMPRINT_CACHE_GB", "0.000001")
    second = fetch(f"{server.address}/part-0.zip")
    assert second.is_file()
    assert not first.exists()
    cache.clear()
    assert not second.exists()


def test_names_of_a_listing_lead_nowhere(server, monkeypatch):
    found = remote.Remote.at(f"{server.address}/photos/")
    base = found.path

    class System:
        def find(self, path, detail):
            names = ("a.png", "../evil.png", "x/../../evil.png", "?C=N;O=D", "b\\..\\c.png")
            return {f"{base}{name}": {} for name in names}

    assert list(remote.Remote("http://h/photos/", System(), base).files()) == ["a.png"]


def test_nothing_of_it_is_imported_unless_asked_for():
    code = "import imprint, sys; imprint.load('digits'); assert not {'fsspec', 'aiohttp'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def bucket(server, monkeypatch):
    """The same digits in a bucket of S3, served by moto, which is too heavy for the tests' own packages."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    served = moto.ThreadedMotoServer(port=0)
    served.start()
    host, port = served.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3")
    client.create_bucket(Bucket="pets")
    for file in [*server.root.glob("photos/*/*.png"), *server.root.glob("*.zip")]:
        client.upload_file(str(file), "pets", str(file.relative_to(server.root)))
    yield "s3://pets"
    served.stop()


@pytest.mark.filterwarnings("ignore")  # of boto and moto
def test_a_bucket(bucket, server, model_file, tmp_path):
    counts = imprint.load(server.root / "photos").class_counts()
    images = imprint.load(f"{bucket}/photos")
    assert images.class_counts() == imprint.load(f"{bucket}/part-*.zip").class_counts() == counts
    assert images.sources[0] == "s3://pets/photos/0/00.png"
    for i, data in enumerate(("photos", "part-{0..1}.zip", "part-?.zip")):
        assert predict_folder(model_file, f"{bucket}/{data}", tmp_path / f"{i}")["said"] == 40
    with pytest.raises(DataError, match=r"data at s3://pets/no.zip: nothing is there"):
        imprint.load(f"{bucket}/no.zip")
    with pytest.raises(DataError, match=r"data at s3://none/a.zip: "):
        imprint.load("s3://none/a.zip")
