"""The whole app with a project, and a client that is let in: python tests/serve/small_app.py FOLDER [PORT]."""

import sys
from pathlib import Path

from starlette.testclient import TestClient

from imprint.serve.app import create_app
from imprint.serve.engine import Served
from imprint.serve.project import Project
from imprint.serve.security import Settings
from imprint.serve.training_process import Trainer

TOKEN = "a token for tests"


def make_app(folder, trainer=None, **limits):
    """Give the app, with project and trainer as its state."""
    project, trainer, served = Project(Path(folder), **limits), trainer or Trainer(), Served()
    app = create_app(served, Settings("127.0.0.1", 8000, TOKEN), project, trainer=trainer)
    app.state.project, app.state.trainer = project, trainer
    return app


def client_of(app):
    """Give a client with the token."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return TestClient(app, base_url="http://127.0.0.1:8000", headers=headers, raise_server_exceptions=False)


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000)
