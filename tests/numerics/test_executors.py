"""Work on local processes and on a Dask cluster, through the same few lines."""

from __future__ import annotations

import os

import pytest

from numerics import executors
from numerics.executors import executor


def square(x: int) -> int:
    return x * x


def process(_: int) -> int:
    return os.getpid()


def test_local_processes_do_the_work_elsewhere() -> None:
    with executor("local:2") as pool:
        assert [job.result() for job in [pool.submit(square, i) for i in range(5)]] == [0, 1, 4, 9, 16]
        assert pool.submit(process, 0).result() != os.getpid()


def test_an_error_inside_stops_the_processes() -> None:
    def interrupted() -> None:
        with executor("local:1") as pool:
            pool.submit(square, 2).result()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()


def test_a_dask_cluster_by_its_address() -> None:
    distributed = pytest.importorskip("distributed", reason='the extra "dask" is not installed')
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        with executor(cluster.scheduler_address) as pool:
            assert pool.submit(square, 7).result() == 49
            assert pool.submit(process, 0).result() != os.getpid()


def test_no_scheduler_is_named_with_its_address() -> None:
    pytest.importorskip("distributed", reason='the extra "dask" is not installed')
    with (
        pytest.raises(OSError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
        executor("tcp://127.0.0.1:9"),
    ):
        pass


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "distributed", None)
    with pytest.raises(ImportError, match=r"depthbound\[dask\]"), executor("tcp://127.0.0.1:8786"):
        pass


@pytest.mark.parametrize("name", ["remote", "local:0", "local:x", "localhost:8786", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="use local, local:N, or the address"), executor(name):
        pass
