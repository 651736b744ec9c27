"""Launching: the processes of a crew, started by torchrun or by `launch`, which is torchrun too."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from imprint.core.errors import ImprintError, StoppedError
from imprint.training.distributed import Crew, current_crew, started_by_torchrun, train_with

STARTED_WITHIN = timedelta(minutes=15)  # as torchrun has it
SECONDS_TO_SETTLE = 3600  # for writing what was learnt after Ctrl-C; torchrun's own 30 are few
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextmanager
def crew_of_torchrun() -> Iterator[Crew]:
    """Train with the other processes that torchrun has started in this block; alone, where it has started none.

    Of what goes wrong, one process tells; the error's `muted` keeps the others from it.
    """
    if (size := started_by_torchrun()) < 2:
        yield current_crew()
        return
    die_with_parent()
    store, rank, _ = next(iter(rendezvous("env://", timeout=STARTED_WITHIN)))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = Crew(rank, size, PrefixStore(f"imprint {attempt}", store))
    ended = threading.Event()
    listener = threading.Thread(target=own.answer, args=(ended,), name="imprint crew", daemon=True)
    listener.start()
    try:
        with train_with(own), _one_tells(own):
            yield own
        own.leave()
    finally:
        ended.set()
        listener.join()


@contextmanager
def _one_tells(own: Crew) -> Iterator[None]:
    """Let one process alone tell what went wrong; where all were stopped since one had ended, that is it."""
    try:
        try:
            yield
        except (StoppedError, KeyboardInterrupt):
            own.name_missing()
            raise
    except ImprintError as error:
        error.muted = not own.speaks_first()
        raise


def die_with_parent() -> None:
    """Have Linux end this process when the one that started it ends, however that happens."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has just ended
            os.kill(os.getpid(), signal.SIGKILL)


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run ``imprint`` with these arguments in so many processes on this machine, by torchrun; gives the exit status."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # each tells by itself what it has lost
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_SETTLE))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    here = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id={uuid.uuid4()}"]
    # Without the arguments of `imprint`, of which torchrun's parser would take some for its own.
    config, program, words = config_from_args(parse_args([*here, f"--nproc-per-node={processes}", "-m", "imprint"]))
    try:
        elastic_launch(config=config, entrypoint=program)(*words, *arguments)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status > 0 else 128 - status  # as shells give that of a process ended by a signal
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
