"""Device, precision and random generators; the only file that says cuda."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

import torch
from torch import Tensor

DTYPE: Final = torch.float64
"""The one precision of the numeric side: bounds are compared at rounding level."""

Name = Literal["auto", "cpu", "cuda"]


def choose(name: Name = "auto") -> torch.device:
    """The device to work on: `auto` takes CUDA where it is there, else the CPU.

    Raises:
        RuntimeError: CUDA is asked for and missing.
        ValueError: an unknown name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: use auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RuntimeError("device cuda is asked for, but PyTorch sees none: use 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded. The same seed gives different streams on different devices."""
    return torch.Generator(device=device).manual_seed(seed)


def synchronise(device: torch.device) -> None:
    """Wait until the work queued on `device` is done (for timings); nothing to wait for on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> str:
    """The device in words, for reports: its name, the threads used and the PyTorch version."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda}), PyTorch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} thread(s), PyTorch {torch.__version__}"


WARM_UP = 3
"""Runs before a CUDA graph is recorded, as PyTorch asks for: libraries set up their workspaces in them."""


def replayed(work: Callable[[], None], device: torch.device, state: Sequence[Tensor]) -> Callable[[], None]:
    """`work` itself on the CPU; on CUDA a callable that replays it as one CUDA graph, recorded at the first call.

    Args:
        work: reads and writes the same tensors at every call, and never waits for the device.
        state: the tensors that it changes; warming up leaves them as they were.
    """
    if device.type != "cuda":
        return work
    graph: list[torch.cuda.CUDAGraph] = []

    def replay() -> None:
        if not graph:
            before = [tensor.clone() for tensor in state]
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    work()
            torch.cuda.current_stream(device).wait_stream(side)
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                work()
            for tensor, kept in zip(state, before, strict=True):
                tensor.copy_(kept)
            graph.append(recorded)
        graph[0].replay()

    return replay
