"""Where independent pieces of work run: local processes, or the workers of a Dask cluster by its address; both through `concurrent.futures`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

try:
    import distributed
except ImportError:  # an optional extra
    distributed = None  # type: ignore[assignment]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _quiet() -> None:
    """Workers leave Ctrl-C to the parent, which keeps what is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def executor(where: str = "local") -> Iterator[Executor]:
    """An executor by name: `local` (a process a core, at most four), `local:8`, or the address of a Dask scheduler, `tcp://host:8786`.

    On leaving, work that has not begun is dropped; local processes are stopped if the block was left by an error.

    Raises:
        ValueError: a name that is none of these.
        ImportError: a Dask address without the extra `dask`, naming the remedy.
        OSError: no scheduler answers at the address.
    """
    if where.startswith(("tcp://", "tls://", "ucx://")):
        if distributed is None:
            raise ImportError(f'{where} is a Dask cluster: install the extra with pip install "depthbound[dask]"')
        try:
            client: Any = distributed.Client(where, timeout=10)
        except (OSError, TimeoutError) as error:
            raise OSError(f"no Dask scheduler answers at {where} ({error}): start one, or use local") from None
        with client, client.get_executor(pure=False) as pool:
            yield pool
        return
    kind, _, number = where.partition(":")
    if kind != "local" or (number and not (number.isdigit() and int(number) > 0)):
        raise ValueError(
            f"--executor {where}: use local, local:N, or the address of a Dask scheduler such as tcp://host:8786"
        )
    processes = ProcessPoolExecutor(
        int(number) if number else min(4, cores()), mp_context=get_context("spawn"), initializer=_quiet
    )
    try:
        yield processes
    except BaseException:
        for process in list(processes._processes.values()):
            process.terminate()
        raise
    finally:
        processes.shutdown(wait=False, cancel_futures=True)
