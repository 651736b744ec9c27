"""A small app of a project's routes alone, without security: python tests/serve/small_app.py FOLDER [PORT]."""

import sys
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import JSONResponse

from imprint.models.onnx.classifier import OnnxClassifier
from imprint.serve import teaching
from imprint.serve.problems import Problem
from imprint.serve.project import Project
from imprint.serve.training_process import Trainer


class Engine:
    def __init__(self, path):
        self.path, self.model = path, OnnxClassifier.load(path)
        self.digest = str(path)


class Served:
    current = None

    def swap(self, path, check_images=()):
        engine = Engine(Path(path))
        if check_images:
            engine.model.predict(list(check_images))
        self.current = engine
        return engine


async def answer_problem(request, problem):
    content = {"title": problem.title, "status": problem.status, "detail": problem.detail, **problem.members}
    return JSONResponse(content, problem.status, media_type="application/problem+json")


def make_app(folder, trainer=None, **limits):
    """Give the app, with the project, the trainer and what is served as its state."""
    project, trainer, served = Project(Path(folder), **limits), trainer or Trainer(), Served()
    app = Starlette(
        routes=teaching.routes(project, trainer, served, None),
        exception_handlers={Problem: answer_problem},
    )
    app.state.project, app.state.trainer, app.state.served = project, trainer, served
    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]) if len(sys.argv) > 2 else 8123)
