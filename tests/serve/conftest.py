"""One real server for all tests that only ask."""

import signal

import pytest

from serve_helpers import Server


@pytest.fixture(scope="session")
def server(onnx_file, tmp_path_factory):
    """A server of the digits' model; its tests change nothing of it."""
    one = Server(onnx_file, folder=tmp_path_factory.mktemp("data"))
    yield one
    one.stop()
    assert not any("Traceback" in line for line in one.lines), one.lines


@pytest.fixture
def started(tmp_path):
    """Start a server of one's own, with options."""
    servers = []

    def start(*options, **more):
        servers.append(Server(*options, **{"folder": tmp_path / "data", **more}))
        return servers[-1]

    yield start
    for one in servers:
        one.stop(signal.SIGKILL)
