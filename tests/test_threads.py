"""On how many threads a frame runs: one for a small model, unless the user has chosen."""

import pytest
import torch

from modeling_pjvlt import TrackingSession, threads_pjvlt


@pytest.fixture
def four_cores(monkeypatch):
    """A machine whose torch took four threads, without anybody's choice."""
    for name in threads_pjvlt.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(threads_pjvlt, "_FIRST", 4)
    monkeypatch.setattr(threads_pjvlt, "_DEFAULTS", {4, 8})
    monkeypatch.setattr(threads_pjvlt, "_ours", None)
    yield
    torch.set_num_threads(before)


def test_a_small_model_takes_one_thread_and_a_large_one_after_it_those_of_torch(
    tiny_model, tiny_processor, four_cores, monkeypatch
):
    TrackingSession(tiny_model(), tiny_processor)
    assert torch.get_num_threads() == 1
    TrackingSession(tiny_model(), tiny_processor)
    assert torch.get_num_threads() == 1
    monkeypatch.setattr(threads_pjvlt, "SMALL", 10)
    TrackingSession(tiny_model(), tiny_processor)
    assert torch.get_num_threads() == 4


def test_the_users_own_number_is_kept(tiny_model, tiny_processor, four_cores, monkeypatch):
    torch.set_num_threads(2)
    TrackingSession(tiny_model(), tiny_processor)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    TrackingSession(tiny_model(), tiny_processor)
    assert torch.get_num_threads() == 4
