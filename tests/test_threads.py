"""On how many threads a frame runs: one for a small model, unless the user has chosen; and afterwards as before."""

import numpy as np
import pytest
import torch

from modeling_pjvlt import TrackingSession, threads_pjvlt

FRAME = np.zeros((60, 80, 3), np.uint8)


@pytest.fixture
def four_cores(monkeypatch):
    """A machine whose torch took four threads, without anybody's choice."""
    for name in threads_pjvlt.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(threads_pjvlt, "_FIRST", 4)
    monkeypatch.setattr(threads_pjvlt, "_DEFAULTS", {4, 8})
    yield
    torch.set_num_threads(before)


def threads_of_a_frame(model, processor, **settings):
    session, seen = TrackingSession(model, processor, **settings), []
    session.add_target(FRAME, [10, 10, 20, 20], "it")
    run = session._run
    session._run = lambda *inputs: seen.append(torch.get_num_threads()) or run(*inputs)
    session.step(FRAME)
    return seen


def test_a_small_model_takes_one_thread_and_leaves_torch_as_it_was(tiny_model, tiny_processor, four_cores):
    assert threads_of_a_frame(tiny_model(), tiny_processor) == [1]
    assert torch.get_num_threads() == 4
    assert threads_of_a_frame(tiny_model(), tiny_processor, num_threads=3) == [3]


def test_a_large_model_takes_what_torch_takes(tiny_model, tiny_processor, four_cores, monkeypatch):
    monkeypatch.setattr(threads_pjvlt, "SMALL", 10)
    assert threads_of_a_frame(tiny_model(), tiny_processor) == [4]


def test_the_users_own_number_is_kept(tiny_model, tiny_processor, four_cores, monkeypatch):
    torch.set_num_threads(2)
    assert threads_of_a_frame(tiny_model(), tiny_processor) == [2]
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads_of_a_frame(tiny_model(), tiny_processor) == [4]


def test_an_error_in_a_frame_leaves_torch_as_it_was(tiny_model, tiny_processor, four_cores):
    session = TrackingSession(tiny_model(), tiny_processor)
    session.add_target(FRAME, [10, 10, 20, 20], "it")
    with pytest.raises(ValueError, match="one size"):
        session.step(np.zeros((40, 80, 3), np.uint8))
    assert torch.get_num_threads() == 4
