"""The share of the time that a loop waits for data, and the advice on workers."""

from __future__ import annotations

import pytest

from openclip_eclip.batching import waiting
from openclip_eclip.batching.waiting import Waiting, advice


def measured(seconds: float, total: float) -> Waiting:
    one = Waiting()
    one.seconds, one.total = seconds, total
    return one


def test_waiting_counts_from_the_first_batch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop computes for 10 s a batch; the first one comes after 100 s, the others after 2."""
    now = [0.0]
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: now[0])

    def batches():
        for delay in (100, 2, 2):
            now[0] += delay
            yield delay

    one = Waiting()
    for _ in range(2):  # each epoch anew
        for _ in one.watch(batches()):
            now[0] += 10
        assert (one.seconds, one.total) == (4, 24)
        assert one.share == pytest.approx(1 / 6)
    assert list(one.watch([1])) == [1] and one.share == 0


@pytest.mark.parametrize(
    ("seconds", "workers", "cores", "expected"),
    [
        (5, 4, 16, ""),
        (50, 4, 16, "give about --workers 8 instead of 4"),
        (10, 4, 16, "give about --workers 5 instead of 4"),
        (75, 0, 16, "give about --workers 3 instead of 0"),  # reads thrice as long as it computes
        (20, 0, 16, "give about --workers 1 instead of 0"),
        (100, 4, 4, "there is a worker for each of the 4 cores already; save the images at a"),
        (50, 4, 6, "give --workers 6 instead of 4, one for each core, and save the images at a"),
    ],
)
def test_advice_names_the_workers_that_keep_up(
    seconds: float, workers: int, cores: int, expected: str
) -> None:
    told = advice(measured(seconds, 100), workers, cores, fast_jpeg=False)
    assert told.startswith(expected) and bool(told) == bool(expected)
    if "smaller" in told:
        assert told.endswith("smaller size, or give --fast-jpeg")
        assert "--fast-jpeg" not in advice(measured(seconds, 100), workers, cores, fast_jpeg=True)
