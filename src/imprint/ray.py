"""Prediction on a Ray cluster: of shards into a folder, and as a step of somebody's own pipeline of Ray Data.

Ray is imported where it is used; a worker needs Imprint, the model's file and the data at the same paths.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy import ndarray

from imprint.core import errors
from imprint.core.errors import ImprintError, UsageError
from imprint.core.progress import say

if TYPE_CHECKING:
    import pyarrow

    from imprint.data.shards import Shard
    from imprint.models.bulk import RunShards, ShardResult

MOST_BLOCKS = 2000  # of shards dealt to actors; beyond that several share one


class Predict:
    """A step for ``map_batches`` of Ray Data, which predicts image files; `model` is a path that every worker has.

    `content` and `source` are the columns of the files' contents and names, as ``ray.data.read_binary_files`` calls
    them. An image that cannot be read is a row with its cause in `error`: it ends no job.
    """

    def __init__(self, model: str, content: str = "bytes", source: str = "path") -> None:
        from imprint.models.bulk import open_model

        self._content, self._source = content, source
        self._model, _ = open_model(model)
        self.class_names = self._model.class_names

    def __call__(self, batch: Mapping[str, ndarray]) -> pyarrow.Table:
        """Predict a batch; gives the columns source, label, confidence, unsure and error."""
        from imprint.models.bulk import predict_files

        contents = [bytes(content) for content in batch[self._content]]
        return predict_files(self._model, contents, [str(source) for source in batch[self._source]]).to_arrow()


def on_cluster(model: str | Path, out: Path) -> RunShards:
    """Give what predicts shards on the cluster that is there, or on the cores of this machine.

    Raises `UsageError` where Ray is missing.
    """
    ray = _ray()

    def run(shards: Iterable[Shard]) -> Iterator[ShardResult]:
        from imprint.models.bulk import ShardResult

        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="ERROR")
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        items = [{"shard": json.dumps(asdict(shard))} for shard in shards]
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        actors = max(1, min(len(items), gpus or int(there.get("CPU", 1))))
        say(f"{len(items):,} shards on a Ray cluster with {actors:,} actors")
        dataset = ray.data.from_items(items, override_num_blocks=min(len(items), MOST_BLOCKS)).map_batches(
            _PredictShards,
            fn_constructor_args=(str(model), str(out), str(Path.cwd())),
            batch_size=1,
            num_gpus=1 if gpus else 0,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        )
        try:
            for row in dataset.iter_rows():
                told = json.loads(row["result"])
                if "error" in told:
                    raise getattr(errors, told["error"])(*told["words"])
                yield ShardResult(**told | {"files": tuple(told["files"])})
        except ray.exceptions.RayError as error:
            cause = f"Ray gave up ({str(error).strip().splitlines()[-1][:200]})"
            remedy = "What is done is kept: run the command again."
            raise UsageError("prediction", "the cluster", cause, remedy) from error

    return run


class _PredictShards:
    """Predicts shards into the folder, in an actor, from the working folder of who asked."""

    def __init__(self, model: str, out: str, folder: str) -> None:
        os.chdir(folder)
        self._model, self._out = model, out

    def __call__(self, batch: Mapping[str, ndarray]) -> dict[str, list[str]]:
        return {"result": [self._predict(json.loads(shard)) for shard in batch["shard"]]}

    def _predict(self, facts: Mapping[str, Any]) -> str:
        from imprint.data.shards import Shard
        from imprint.models.bulk import predict_shard

        try:
            shard = Shard(**{**facts, "files": tuple(facts["files"])})
            return json.dumps(asdict(predict_shard(self._model, shard, self._out)))
        except ImprintError as error:
            words = [error.what, error.where, error.cause, error.remedy]
            return json.dumps({"error": type(error).__name__, "words": words})


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        remedy = "Install it: pip install ray pyarrow pandas."
        cause = "it is missing, and --engine ray needs it"
        raise UsageError(f"package {error.name}", "this Python", cause, remedy) from None
    return ray
