"""RecordedStep: a training step that a GPU replays as one CUDA graph.

A step of a small network is hundreds of operations, each of which takes Python longer to start than a GPU to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Step = Callable[..., Sequence[Tensor]]
Replay = Callable[[], object]

WARM_UP = 3  # steps before the recording, in which libraries choose their algorithms and take memory
WORTH_RECORDING = 32  # steps; a recording takes about as long


def record_cuda_graph(step: Step, inputs: Sequence[Tensor], stream: torch.cuda.Stream) -> tuple[Replay, list[Tensor]]:
    """Record a step without running it; gives what replays it, and the tensors that it will leave its results in."""
    graph = torch.cuda.CUDAGraph()
    # Other threads, of a server for instance, may go on to allocate memory meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        results = list(step(*inputs))
    return graph.replay, results


class RecordedStep:
    """A step that runs as it is for the first times, and from then on as a recording of itself.

    It takes and gives tensors; what it gives, the next step overwrites. Inputs of another shape than the first ones'
    pass by the recording. Dropout goes on drawing new numbers, since torch counts them for each replay.
    """

    def __init__(
        self, step: Step, device: torch.device, record: Callable[..., tuple[Replay, list[Tensor]]] = record_cuda_graph
    ) -> None:
        self._step, self._record = step, record
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.forget()

    def forget(self) -> None:
        """Drop the recording, and what memory it holds; the next steps warm up for another."""
        self._taken = 0
        self._inputs: list[Tensor] = []  # where the recording reads
        self._results: list[Tensor] = []
        self._replay: Replay | None = None

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Take a step."""
        self._inputs = self._inputs or [torch.empty_like(one) for one in inputs]
        if [one.shape for one in inputs] != [one.shape for one in self._inputs]:
            return self._step(*inputs)
        if self._replay is None and self._taken < WARM_UP:
            self._taken += 1
            return self._aside(inputs)
        torch._foreach_copy_(self._inputs, inputs)
        if self._replay is None:
            self._replay, self._results = self._record(self._step, self._inputs, self._stream)
        self._replay()
        return self._results

    def _aside(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Run the step on the stream that will record it, as torch asks for."""
        if self._stream is None:
            return self._step(*inputs)
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            results = self._step(*inputs)
        current.wait_stream(self._stream)
        return results
