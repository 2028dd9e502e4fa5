"""Device, precision and random generators; the only file that says cuda."""

from __future__ import annotations

from typing import Final, Literal

import torch

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
