"""Crew: the processes that torchrun has started to train together, each with its share of every batch.

Each draws the random numbers of all and computes its own rows, so that any number of processes gives what one gives;
one all-reduce a step makes sums of all. What they say to each other besides goes through torchrun's key-value store,
which answers even where a process does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from jaxtyping import Float32, Shaped
from numpy import ndarray
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store

from imprint.core.errors import ImprintError, UsageError

if TYPE_CHECKING:
    from types import FrameType

TIMEOUT_VARIABLE = "IMPRINT_TIMEOUT"
TIMEOUT = 120.0  # seconds after which a process that does not answer counts as lost
LISTENING, ANSWERED = 0.25, 1.5  # seconds between looks for a call, and within which those alive have answered it
POLLED = 0.01  # seconds
SAME_SIGNAL = 1.0  # second; torchrun passes on what a terminal may have sent already
GPU_STEPS = 16  # between looks at the wish to stop, for which Python waits until a GPU has caught up
LONGEST_TOLD = 100  # letters of two facts that differ
TAKE_UP = "Run the same command with the same --run DIR again: it goes on from its last checkpoint."


class Crew:
    """The processes that train together; of one process, which is none at all, everything here does nothing.

    `rank` counts them from 0. The first, which `leads`, speaks and writes.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None) -> None:
        self.rank, self.size, self._store = rank, size, store
        self._exchanges, self._groups, self._steps = 0, 0, 0
        self._stop_asked = 0.0  # when, by time.monotonic

    @property
    def leads(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Give the rows of `count` that are this process's own; they may be none."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def shares(self, count: int) -> list[int]:
        """Give how many rows of `count` each process has."""
        return [count * (rank + 1) // self.size - count * rank // self.size for rank in range(self.size)]

    def own_rows(self, order: Shaped[Tensor, " drawn"], batch_size: int) -> Shaped[Tensor, " own"]:
        """Keep of whole batches, one after the other, the rows that this process computes."""
        return order if self.size == 1 else order.view(-1, batch_size)[:, self.share(batch_size)].flatten()

    def add_up(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Add tensors of one type up over all processes, in one exchange."""
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self._exchanged(partial(dist.all_reduce, flat))
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def add_up_step(
        self, network: nn.Module, losses: Shaped[Tensor, " own"], hits: Shaped[Tensor, " own"], batch_size: int
    ) -> tuple[Shaped[Tensor, " batch"], Shaped[Tensor, " batch"]]:
        """Add up the gradients of all, and give the losses and hits of the whole batch.

        Raises `KeyboardInterrupt` in all processes at the same step, where one of them was asked to stop.
        """
        if self.size == 1:
            return losses, hits
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        seen, stop = losses.new_zeros(2, batch_size), losses.new_full((1,), bool(self._stop_asked))
        seen[0, self.share(batch_size)], seen[1, self.share(batch_size)] = losses, hits.to(losses.dtype)
        *sums, seen, stop = self.add_up([*gradients, seen, stop])
        torch._foreach_copy_(gradients, sums)
        self._steps += 1
        if (stop.device.type == "cpu" or self._steps % GPU_STEPS == 0) and stop.item():
            raise KeyboardInterrupt
        return seen[0], seen[1] > 0

    def whole(
        self, count: int, own: Callable[[slice], Shaped[ndarray, "own ..."]], device: torch.device
    ) -> Shaped[ndarray, "count ..."]:
        """Compute `count` rows, each by one process; `own` computes some. All get all of them, through `device`."""
        share = self.share(count)
        has_some = share.start < share.stop
        rows = torch.from_numpy(own(share if has_some else slice(0, 1)))  # who has none needs to know their form
        if self.size == 1:
            return rows.numpy()
        everything = torch.zeros(count, *rows.shape[1:], dtype=rows.dtype, device=device)
        everything[share] = rows[: share.stop - share.start].to(device)
        return self.add_up([everything])[0].cpu().numpy()

    def sum_of_all(self, values: Float32[ndarray, "*n"]) -> Float32[ndarray, "*n"]:
        """Add up what the processes computed each by itself, however long the slowest takes."""
        if self.size == 1:
            return values
        self.gather(None)
        with self.joined(torch.device("cpu")):
            return self.add_up([torch.from_numpy(values)])[0].numpy()

    def follow(self, tensors: Sequence[Tensor], rank: int = 0) -> None:
        """Overwrite tensors by those of one process."""
        if self.size == 1:
            return
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault(tensor.dtype, []).append(tensor)
        for same in kinds.values():
            flat = torch.cat([tensor.detach().flatten() for tensor in same])
            self._exchanged(partial(dist.broadcast, flat, src=rank))
            with torch.no_grad():
                for tensor, part in zip(same, flat.split([one.numel() for one in same]), strict=True):
                    tensor.copy_(part.view(tensor.shape))

    def check_same(self, network: nn.Module, when: str) -> None:
        """Compare the weights of all processes; raises `UsageError` where they differ, as by a fault of memory."""
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().numpy().tobytes())
        digests = torch.zeros(self.size, dtype=torch.int64, device=next(network.parameters()).device)
        digests[self.rank] = int.from_bytes(digest.digest()[:8], "big", signed=True)
        found = self.add_up([digests])[0].tolist()
        for rank in range(self.size):
            if found[rank] != found[0]:
                remedy = "Check the memory of its machine, and take the run up again."
                raise UsageError(f"weights of rank {rank}", when, "they are not those of rank 0", remedy)

    @contextmanager
    def agreement(self) -> Iterator[dict[str, Any]]:
        """Prepare something in each process; the block notes the facts that must be the same in all.

        Raises the `ImprintError` of any of them in all, and `UsageError` where a fact differs.
        """
        facts: dict[str, Any] = {}
        try:
            yield facts
        except ImprintError as error:
            self._compare({"error": _parts(error)})
            raise
        self._compare({"facts": json.loads(json.dumps(facts))})

    def _compare(self, own: Mapping[str, Any]) -> None:
        """Exchange what each process found; raise in all what one could not do, or where two differ."""
        every = self.gather(own) if self.size > 1 else []
        for rank, found in enumerate(every):
            if "error" in found:
                what, where, cause, remedy = found["error"]
                raise UsageError(what, f"{where} (rank {rank})" if rank else where, cause, remedy)
        for rank, found in enumerate(every):
            for name, value in found["facts"].items():
                if value != (expected := every[0]["facts"][name]):
                    told = f", {value} and not {expected}" if len(f"{value}{expected}") < LONGEST_TOLD else ""
                    remedy = "Give all processes the same command, data and versions, on machines of one kind."
                    raise UsageError(f"{name} of rank {rank}", "the start", f"it is not that of rank 0{told}", remedy)

    def gather(self, own: object) -> list[Any]:
        """Exchange plain JSON values, however long the slowest process takes for its own; gives one a process."""
        if self._store is None:
            return [own]
        self._exchanges += 1
        self._store.set(f"{self._exchanges}/{self.rank}", json.dumps(own))
        return [json.loads(self._read(f"{self._exchanges}/{rank}")) for rank in range(self.size)]

    def told(self, make: Callable[[], Any]) -> Any:
        """Let the first process make plain JSON values for all; raises in all the `ImprintError` that it raises."""
        if self._store is None:
            return make()
        self._exchanges += 1
        key = f"{self._exchanges}/told"
        if self.leads:
            try:
                found = {"made": make()}
            except ImprintError as error:
                found = {"error": _parts(error)}
            self._store.set(key, json.dumps(found))
        found = json.loads(self._read(key))
        if "error" in found:
            raise UsageError(*found["error"])
        return found["made"]

    def _read(self, key: str) -> bytes:
        """Wait for a key; Ctrl-C may come meanwhile, and processes that have failed or do not answer end it."""
        assert self._store is not None
        called = time.monotonic()
        while not self._store.check([key]):
            time.sleep(POLLED)
            if self._store.check(["told"]):
                raise LostProcessError("processes", "training", "one has ended, and has told why", TAKE_UP)
            if time.monotonic() - called > _timeout():
                self.name_missing()
                called = time.monotonic()
        content: bytes = self._store.get(key)
        return content

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Let the processes exchange tensors in this block, and stop at the same step when one is asked to."""
        if self._store is None:
            yield
            return
        self.gather(None)  # while a group is made, no signal is heeded
        self._groups += 1
        store = PrefixStore(f"group {self._groups}", self._store)
        timeout = timedelta(seconds=_timeout())
        dist.init_process_group(_backend(device), store=store, rank=self.rank, world_size=self.size, timeout=timeout)
        try:
            with self._one_stop():
                yield
        finally:
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    @contextmanager
    def _one_stop(self) -> Iterator[None]:
        """Note the wish to stop instead of raising; Ctrl-C once more raises at once."""

        def note(number: int, frame: FrameType | None) -> None:
            again = self._stop_asked and time.monotonic() - self._stop_asked > SAME_SIGNAL
            if again and number == signal.SIGINT:
                signal.default_int_handler(number, frame)
            self._stop_asked = self._stop_asked or time.monotonic()

        ours = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if ours}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _exchanged(self, exchange: Callable[[], object]) -> None:
        """Exchange tensors; where a process is gone or does not answer, name it by `LostProcessError`."""
        try:
            exchange()
        except RuntimeError as error:
            self.name_missing()
            cause = f"it failed ({str(error).splitlines()[0][:200]})"
            raise LostProcessError("exchange", "training", cause, TAKE_UP) from None

    def name_missing(self) -> None:
        """Raise `LostProcessError` where a process has ended or does not answer; all that live find the same."""
        if self._store is None or self.size == 1:
            return
        try:
            call = self._store.add("calls", 1)
            time.sleep(ANSWERED)
            missing = [
                f"{rank}"
                for rank in range(self.size)
                if not self._store.check([f"alive/{call}/{rank}"]) and not self._store.check([f"left/{rank}"])
            ]
        except RuntimeError:  # the store was with rank 0, or with torchrun
            missing = ["0"]
        if missing:
            what = f"rank{'s' * (len(missing) > 1)} {', '.join(missing)}"
            cause = "no answer any more, as of a process that has ended or hangs; the others have stopped"
            raise LostProcessError(what, "training", cause, TAKE_UP)

    def speaks_first(self) -> bool:
        """Whether no other process has told yet why all end; from now on this one has."""
        if self._store is None:
            return True
        try:
            first: bytes = self._store.compare_set("told", "", str(self.rank))
        except RuntimeError:
            return True
        return first.decode() == str(self.rank)

    def leave(self) -> None:
        """Note that this process has nothing more to say to the others, and will not answer."""
        if self._store is not None:
            with contextlib.suppress(RuntimeError):
                self._store.set(f"left/{self.rank}", "")

    def answer(self, ended: threading.Event) -> None:
        """Answer calls of processes that miss another, in a thread, since this one may be waiting for it too."""
        assert self._store is not None
        answered = 0
        with contextlib.suppress(RuntimeError):  # the store has ended
            while not ended.wait(LISTENING):
                calls = self._store.add("calls", 0)
                for call in range(answered + 1, calls + 1):
                    self._store.set(f"alive/{call}/{self.rank}", "")
                answered = calls


class LostProcessError(ImprintError):
    """A process of several that train together has ended, or does not answer."""


ALONE = Crew()
_current: ContextVar[Crew] = ContextVar("_current", default=ALONE)


def current_crew() -> Crew:
    """Give the processes that train together now; a crew of one where no others do."""
    return _current.get()


@contextmanager
def train_with(crew: Crew) -> Iterator[None]:
    """Train with these processes in this block."""
    before = _current.set(crew)
    try:
        yield
    finally:
        _current.reset(before)


@contextmanager
def train_alone(alone: bool = True) -> Iterator[None]:
    """Train something in this block that the other processes do not, if `alone`."""
    with train_with(ALONE if alone else current_crew()):
        yield


def started_by_torchrun() -> int:
    """Count the processes that torchrun, or what sets its variables, has started together with this one; 0 for none."""
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        return 0
    return int(os.environ.get("WORLD_SIZE", "0"))


def own_device(device: torch.device) -> torch.device:
    """Give the GPU of this process, one each on a machine as far as there are as many."""
    if device.type != "cuda" or device.index is not None or started_by_torchrun() < 2:
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(own)
    return own


def _backend(device: torch.device) -> str:
    """Choose NCCL where each process has a GPU of its own, else gloo."""
    several = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > torch.cuda.device_count()
    return "nccl" if device.type == "cuda" and not several and dist.is_nccl_available() else "gloo"


def _timeout() -> float:
    """Give the seconds after which a process that does not answer counts as lost."""
    text = os.environ.get(TIMEOUT_VARIABLE) or f"{TIMEOUT}"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < 1e6:
        raise UsageError(f"{TIMEOUT_VARIABLE}={text}", "environment", "it is no number of seconds", "Set it to 120.")
    return seconds


def _parts(error: ImprintError) -> list[str]:
    return [error.what, error.where, error.cause, error.remedy]
