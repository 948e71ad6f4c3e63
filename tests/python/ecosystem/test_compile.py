"""torch.compile: actions change buffers, not code."""

from types import SimpleNamespace

import attune
import torch
from attune import attention
from models import OwnModel, apply, attached
from torch._dynamo.testing import CompileCounterWithBackend


def setting(scale, gain, active):
    neutral = attune.Setting.neutral(4)
    for head in range(4):
        neutral.scale[head], neutral.gain[head] = scale, gain
    return attune.Setting(neutral.scale, neutral.gain, bytes(active))


def compiled():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = OwnModel().train()
    handle = attached(model, endpoint="ipc:///nobody/there")
    counter = CompileCounterWithBackend("aot_eager")
    return model, handle, torch.compile(model, backend=counter, fullgraph=True), counter


def test_an_action_does_not_recompile():
    model, handle, fast, counter = compiled()
    x = torch.randn(2, 20, 32)
    actions = [
        setting(1.0, 1.0, [1, 1, 1, 0]),
        setting(1.15, 0.9, [1, 1, 1, 0]),
        setting(1.5, 0.5, [1, 0, 1, 0]),
        setting(0.5, 2.0, [0, 1, 1, 1]),
        setting(2.0, 1.0, [1, 1, 1, 1]),
    ]
    counts = []
    for action in actions:
        apply(handle, action)
        torch.testing.assert_close(fast(x), model(x), atol=1e-6, rtol=1e-5)
        counts.append(counter.frame_count)
    assert counts == [1] * len(actions)


def test_scales_and_gains_of_a_job_that_skips_nothing_do_not_recompile_either():
    model, handle, fast, counter = compiled()
    x = torch.randn(2, 20, 32)
    for factor in (1.0, 1.15, 1.5):
        apply(handle, setting(factor, 1 / factor, [1] * 4))
        torch.testing.assert_close(fast(x), model(x), atol=1e-6, rtol=1e-5)
    assert counter.frame_count == 1


def test_a_measured_step_has_code_of_its_own_and_reports_as_ever():
    model, handle, fast, counter = compiled()
    x = torch.randn(2, 20, 32)
    for _ in range(24):
        loss = fast(x).square().mean()
        loss.backward()
        handle.step(loss)
    assert counter.frame_count == 2
    slow = handle.last_observation
    twin = OwnModel().train()
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if "attune" not in k})
    other = attached(twin, endpoint="ipc:///nobody/there")
    for _ in range(24):
        loss = twin(x).square().mean()
        loss.backward()
        other.step(loss)
    eager = other.last_observation
    torch.testing.assert_close(
        torch.tensor(slow.metrics), torch.tensor(eager.metrics), atol=1e-5, rtol=1e-4
    )
    handle.remove()
    other.remove()


def test_a_pytorch_that_says_by_another_name_whether_it_compiles_is_served(monkeypatch):
    monkeypatch.setattr(torch, "compiler", SimpleNamespace())  # as 2.1 and 2.2 have it
    found = attention._is_compiling()
    monkeypatch.undo()  # here that name asks the usual one
    assert found.__name__ == "is_compiling"
    assert found() is False
