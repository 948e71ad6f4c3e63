"""A trainer with attach: what it tells the daemon, what it applies, and what never breaks it."""

import gc
import math
import socket
import sqlite3
import threading
import warnings
from contextlib import closing
from types import SimpleNamespace

import attune
import pytest
import torch
from attune.protocol import (
    Acknowledgement,
    AckStatus,
    ActionReply,
    ActionRequest,
    Bye,
    Hello,
    Observation,
    Welcome,
)
from attune.values import METRICS, Outcome, observation_fault
from attuned import attuned, wait_until
from daemon import PATIENCE_SECONDS, Router
from models import OwnModel, apply, attached, encoder, train, varied
from torch import nn


def batch(length=20):
    return torch.randn(3, length, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in ("ENDPOINT", "MODE", "DIR", "JOB", "KEYS", "POLICY"):
        monkeypatch.delenv(f"ATTUNE_{name}", raising=False)


@pytest.fixture
def router(tmp_path, monkeypatch):
    endpoint = f"ipc://{tmp_path}/socket"
    monkeypatch.setenv("ATTUNE_ENDPOINT", endpoint)
    made = Router(endpoint)
    yield made
    made.close()


def next_of(router, kind, step):
    """Lets the trainer go on until the daemon has received this kind of message."""
    for _ in range(PATIENCE_SECONDS * 500):
        message = router.receive()
        if isinstance(message, kind):
            return message
        if message is None:
            step()
    raise AssertionError(f"no {kind.__name__} came")


def trainer(model, handle):
    return lambda: train(model, handle, batch(), 1)


def test_a_trainer_introduces_its_sites_reports_and_says_how_it_ended(router, monkeypatch):
    monkeypatch.setenv("ATTUNE_JOB", "run-9")
    monkeypatch.setenv("ATTUNE_POLICY", "kmeans")
    model = encoder()
    handle = attune.attach(
        model,
        name="tiny",
        budget=attune.Budget.steps(500),
        seed=3,
        learning_rate=0.01,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
    )
    step = trainer(model, handle)
    hello = next_of(router, Hello, step)
    assert hello.job == handle.job
    assert (hello.job.key, hello.job.name, hello.job.policy) == ("run-9", "tiny", "kmeans")
    assert hello.job.optimizer == "SGD"
    assert not hello.job.fresh
    assert [site.name for site in hello.job.sites] == ["layers.0.self_attn", "layers.1.self_attn"]
    assert [site.heads for site in hello.job.sites] == [4, 4]
    router.send(Welcome(1, 2, 30.0))
    observation = next_of(router, Observation, step)
    assert observation_fault(observation, handle.sites) is None
    assert 0 < observation.attention_share <= 1
    assert observation.compute_seconds > 0
    handle.finish(1.25)
    assert next_of(router, Bye, lambda: None) == Bye(
        Outcome.FINISHED, handle.steps, handle.compute_seconds, 1.25
    )
    assert not handle.step(1.0)


def test_an_optimiser_is_named_by_its_class_whatever_is_wrapped_around_it():
    sgd = torch.optim.SGD(encoder().parameters(), 0.01)
    loop = SimpleNamespace(param_groups=[])
    loop.optimizer = loop

    def named(optimizer):
        return attune.attach(
            encoder(), budget=attune.Budget.steps(5), optimizer=optimizer
        ).job.optimizer

    assert named(None) == ""
    assert named("Lion") == "Lion"
    assert named(sgd) == "SGD"
    assert named(SimpleNamespace(optimizer=sgd, param_groups=[])) == "SGD"
    assert named(SimpleNamespace(optim=sgd, param_groups=[])) == "SGD"
    assert named(SimpleNamespace(optimizer=None)) == "SimpleNamespace"
    assert named(loop) == "SimpleNamespace"


def test_an_action_is_applied_between_two_steps_and_acknowledged(router):
    model = encoder()
    handle = attached(model)
    step = trainer(model, handle)
    next_of(router, Hello, step)
    router.send(Welcome(1, 2, 30.0))
    wanted = varied(handle.sites)
    router.send(ActionRequest(5, 10**6, wanted))
    reply = next_of(router, ActionReply, step)
    assert reply.acknowledgement.status == AckStatus.APPLIED
    assert handle.setting == wanted
    observation = next_of(router, Observation, lambda: train(model, handle, batch(), 1))
    while observation.action != 5:
        observation = next_of(router, Observation, step)
    assert observation.active == wanted.active
    assert not any(observation.metrics[2 * len(METRICS) : 3 * len(METRICS)])
    handle.remove()


def test_an_action_whose_step_cannot_be_reported_is_refused_and_training_goes_on(
    router, monkeypatch
):
    def fail(*_):
        raise RuntimeError("no room")

    model = encoder()
    handle = attached(model)
    step = trainer(model, handle)
    next_of(router, Hello, step)
    router.send(Welcome(1, 1, 30.0))  # every step is measured
    next_of(router, Observation, step)
    monkeypatch.setattr(handle._tuned, "take_numbers", fail)
    router.send(ActionRequest(5, 10**6, varied(handle.sites)))
    with pytest.warns(RuntimeWarning, match="no room; training goes on"):
        acknowledgement = next_of(router, ActionReply, step).acknowledgement
    assert acknowledgement.status == AckStatus.REJECTED
    assert "no room" in acknowledgement.why
    assert handle.setting == attune.Setting.neutral(handle.job.heads)
    monkeypatch.undo()
    next_of(router, Observation, step)
    handle.remove()


def test_what_is_decided_before_the_first_step_is_in_force_in_it(router):
    heard = []

    def daemon():
        heard.append(router.receive(1000 * PATIENCE_SECONDS))
        if heard[0] is not None:
            router.send(ActionRequest(5, 16, varied(heard[0].job.sites)))
            heard.append(router.receive(1000 * PATIENCE_SECONDS))
            router.send(Welcome(1, 2, 30.0))

    speaker = threading.Thread(target=daemon)
    speaker.start()
    model = encoder()
    handle = attached(model, fresh=True)
    speaker.join()
    wanted = varied(handle.sites)
    assert handle.setting == wanted
    hello, reply = heard
    assert (hello.step, hello.setting == wanted) == (0, False)
    assert reply == ActionReply(5, Acknowledgement(AckStatus.APPLIED, 0, ""))
    observation = next_of(router, Observation, trainer(model, handle))
    assert (observation.step, observation.action, observation.active) == (1, 5, wanted.active)
    handle.remove()


def test_the_daemon_opens_a_job_whose_weights_are_fresh_and_no_other(tmp_path, monkeypatch):
    with attuned(tmp_path, "--policy", "explore") as endpoint:
        monkeypatch.setenv("ATTUNE_ENDPOINT", endpoint)
        for number in range(20):
            for fresh in (True, False):
                model = OwnModel()
                handle = attached(
                    model,
                    name=f"fresh {fresh}",
                    key=f"{number} {fresh}",
                    fresh=fresh,
                    learning_rate=0.02,
                )
                train(model, handle, batch(), 2)
                handle.remove()
    with closing(sqlite3.connect(tmp_path / "attune.db")) as store:
        [(name, trials)] = store.execute(
            "SELECT name, count(*) FROM history_trials AS t JOIN history_jobs USING (job)"
            " WHERE t.step = 0 AND active_heads < heads GROUP BY name"
        ).fetchall()
    assert name == "fresh True"
    assert trials > 2


def test_step_says_whether_the_setting_changed(router):
    model = OwnModel()
    handle = attached(model)
    next_of(router, Hello, trainer(model, handle))
    router.send(Welcome(1, 2, 30.0))
    router.send(ActionRequest(5, 10**6, varied(handle.sites)))
    changes = []
    while not any(changes):
        changes.append(handle.step(model(batch()).mean()))
    assert handle.setting == varied(handle.sites)
    handle.remove()


def test_a_model_that_holds_a_setting_introduces_itself_with_it(router):
    first = OwnModel()
    one = attached(first, endpoint="ipc:///nobody/there")
    apply(one, varied(one.sites))
    model = OwnModel()
    handle = attached(model)
    model.load_state_dict(first.state_dict())
    hello = next_of(router, Hello, trainer(model, handle))
    assert hello.setting == handle.setting == one.setting
    handle.remove()
    one.remove()


def test_a_setting_that_is_loaded_on_the_way_is_told_to_the_daemon(router):
    model = OwnModel()
    handle = attached(model)
    step = trainer(model, handle)
    assert next_of(router, Hello, step).setting == attune.Setting.neutral(4)
    router.send(Welcome(1, 2, 30.0))
    next_of(router, Observation, step)
    model.attention.attune.apply_setting(varied(handle.sites))
    hello = next_of(router, Hello, step)
    assert hello.setting == handle.setting == varied(handle.sites)
    assert hello.step == handle.steps
    handle.remove()


def test_a_job_without_a_daemon_keeps_no_losses():
    def tensors():
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    handle = attached(OwnModel())
    handle.step(torch.tensor(1.0))
    before = tensors()
    for _ in range(100):
        handle.step(torch.tensor(1.0))
    assert tensors() == before


def test_a_site_that_was_never_measured_gives_no_reason_to_act(router):
    model = OwnModel().eval()
    handle = attached(model)
    with pytest.warns(RuntimeWarning, match="did not measure"):
        next_of(router, Hello, lambda: handle.step(1.0))
        router.send(Welcome(1, 1, 30.0))
        observation = next_of(router, Observation, lambda: handle.step(1.0))
    metrics = dict(zip(METRICS, observation.metrics[: len(METRICS)], strict=True))
    assert 0.15 < metrics["entropy"] < 0.98
    assert metrics["output_norm"] == 1
    handle.remove()


def test_without_a_daemon_a_job_trains_on_and_says_so_once(monkeypatch):
    monkeypatch.setattr("attune.handle._PATIENCE_SECONDS", 0.0)
    model = OwnModel()
    handle = attached(model, endpoint="ipc:///nobody/there")
    with pytest.warns(RuntimeWarning, match="no daemon answers") as caught:
        train(model, handle, batch(), 20)
        handle.finish()
    assert len(caught) == 1
    assert handle.steps == 20
    assert handle.compute_seconds > 0
    assert handle.setting == attune.Setting.neutral(4)


def test_without_an_endpoint_nothing_is_measured_and_nothing_is_said():
    model = OwnModel()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle = attached(model)
        train(model, handle, batch(), 20)
        handle.finish()
    assert handle.last_observation is None


def test_off_means_off_whatever_else_is_said(router, monkeypatch):
    monkeypatch.setenv("ATTUNE_MODE", "off")
    model = OwnModel()
    handle = attached(model)
    train(model, handle, batch(), 20)
    handle.finish()
    assert router.receive() is None


def test_a_process_that_trains_again_begins_another_job(monkeypatch):
    monkeypatch.setenv("ATTUNE_JOB", "folds")
    keys = [attached(OwnModel()).job.key for _ in range(3)]
    assert keys == ["folds", "folds.2", "folds.3"]


def test_a_run_that_goes_on_is_the_same_job_unless_it_is_made_longer():
    model = OwnModel()
    state = attached(model).state_dict()
    assert attached(OwnModel(), state=state).job.key == state["key"]
    assert attached(OwnModel(), steps=2000, state=state).job.key != state["key"]


def test_keys_go_on_behind_those_of_the_run_that_is_resumed(monkeypatch):
    monkeypatch.setenv("ATTUNE_JOB", "resumed")
    state = {**attached(OwnModel(), key="resumed.2").state_dict()}
    assert attached(OwnModel(), state=state).job.key == "resumed.2"
    assert attached(OwnModel(), steps=2000, state=state).job.key == "resumed.3"
    assert attached(OwnModel()).job.key == "resumed.4"


def test_offline_writes_a_log_for_attune_import(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTUNE_MODE", "offline")
    monkeypatch.setenv("ATTUNE_DIR", str(tmp_path / "logs"))
    monkeypatch.setenv("ATTUNE_JOB", "run-10")
    model = OwnModel()
    with attached(model) as handle:
        train(model, handle, batch(), 20)
        handle.finish(torch.tensor(1.5))  # a loss as trainers have it
    assert handle.probe.log_path == tmp_path / "logs" / "run-10.attune"
    assert handle.last_observation.step == 16
    assert handle.probe.log_path.stat().st_size > 500


def test_an_exception_that_leaves_the_block_ends_the_job_as_failed(router):
    model = OwnModel()
    with pytest.raises(KeyError), attached(model) as handle:
        next_of(router, Hello, trainer(model, handle))
        router.send(Welcome(1, 2, 30.0))
        while not handle.probe.met:
            train(model, handle, batch(), 1)
        raise KeyError
    assert next_of(router, Bye, lambda: None).outcome == Outcome.FAILED


def test_a_loss_that_is_no_number_does_not_stop_a_job(router):
    model = OwnModel()
    handle = attached(model)
    with pytest.warns(RuntimeWarning, match="loss is nan"):
        next_of(router, Hello, lambda: handle.step(model(batch()).mean()))
        router.send(Welcome(1, 2, 30.0))
        while handle.probe.dropped == 0:
            model(batch())
            handle.step(math.nan)
    handle.remove()


def test_a_site_that_is_not_run_keeps_its_numbers_and_is_named_once():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = OwnModel(), OwnModel()

        def forward(self, x):
            return self.used(x)

    model = Model()
    handle = attached(model, endpoint="ipc:///nobody/there")
    with pytest.warns(RuntimeWarning, match=r"site 'unused\.attention' did not measure") as caught:
        train(model, handle, batch(), 24)
    assert len(caught) == 1
    assert observation_fault(handle.last_observation, handle.sites) is None
    handle.remove()


def test_a_head_that_is_switched_on_where_nothing_measures_spoils_no_observation():
    model = encoder()
    handle = attached(model, endpoint="ipc:///nobody/there")
    model.layers[1].eval()
    apply(handle, varied(handle.sites))
    with pytest.warns(RuntimeWarning, match="did not measure"):
        train(model, handle, batch(), 4)
    apply(handle, attune.Setting.neutral(8))
    train(model, handle, batch(), 4)
    assert handle.last_observation.step == 8
    assert observation_fault(handle.last_observation, handle.sites) is None
    handle.remove()


def test_a_measurement_that_fails_in_a_forward_pass_is_told_and_training_goes_on(monkeypatch):
    def fail(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("attune.measure.look", fail)
    model = encoder()
    handle = attached(model, endpoint="ipc:///nobody/there")
    with pytest.warns(RuntimeWarning, match="no such kernel"):
        train(model, handle, batch(), 2)
    assert handle.steps == 2
    handle.remove()


def test_a_site_that_disappears_is_named_once_and_the_others_are_tuned_and_baked():
    model = encoder().eval()
    handle = attached(model, endpoint="ipc:///nobody/there")
    apply(handle, varied(handle.sites))
    del model.layers[1]
    with pytest.warns(RuntimeWarning, match=r"site 'layers\.1\.self_attn' did not meas") as caught:
        train(model.train(), handle, batch(), 24)
    assert len(caught) == 1
    assert observation_fault(handle.last_observation, handle.sites) is None
    torch.testing.assert_close(handle.bake()(batch()), model(batch()), atol=1e-5, rtol=1e-5)
    before = model(batch())
    handle.remove()
    assert not torch.equal(model(batch()), before)
    assert not any("attune" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("options", "said", "words"),
    [
        ({}, 8, "has 4 heads where it said 8; it runs untuned"),
        ({"heads": 4, "key_heads": 2}, 3, "has 4 heads over 2 of the keys where it said 3"),
    ],
)
def test_a_site_with_other_heads_than_it_said_runs_untuned_and_is_named(options, said, words):
    model = OwnModel(**options)
    before = model(batch())
    model.attention.heads = said
    handle = attached(model, endpoint="ipc:///nobody/there")
    apply(handle, varied(handle.sites))
    assert torch.equal(model(batch()), before)
    with pytest.warns(RuntimeWarning, match=f"site 'attention' {words}") as caught:
        train(model, handle, batch(), 24)
    assert len(caught) == 1
    handle.remove()


def test_a_projection_that_does_not_hold_its_heads_cannot_be_baked():
    model = OwnModel()
    model.attention.heads = 8
    handle = attached(model)
    apply(handle, varied(handle.sites))
    with pytest.raises(ValueError, match="site 'attention' cannot be baked: a projection of 32"):
        handle.bake()


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("attention.heads", 8, "site 'attention' cannot be baked: a projection of 32"),
        ("peft_config", {"default": "lora"}, r"adapters are not merged \(merge_and_unload\)"),
    ],
)
def test_what_cannot_be_baked_in_place_stays_tuned_as_it_was(name, value, fault):
    model = OwnModel()
    path, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(path), attribute, value)
    handle = attached(model)
    apply(handle, varied(handle.sites))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=fault):
        handle.bake_in_place()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_sites_that_share_weights_are_baked_once_where_their_settings_agree():
    model = nn.ModuleList([OwnModel(), OwnModel()]).eval()
    for name in ("query", "output"):
        getattr(model[1], name).weight = getattr(model[0], name).weight
        getattr(model[1], name).bias = getattr(model[0], name).bias
    handle = attached(model)
    apply(handle, varied(handle.sites))
    x = batch()
    said = [one(x) for one in model]
    for baked, tuned in zip(handle.bake(), said, strict=True):
        torch.testing.assert_close(baked(x), tuned, atol=1e-5, rtol=1e-5)
    other = varied(handle.sites)
    other.scale[0] = 1.0
    apply(handle, other)
    with pytest.raises(ValueError, match="shares weights with a site that has another setting"):
        handle.bake()


def test_a_projection_that_was_replaced_since_cannot_be_baked():
    model = OwnModel()
    handle = attached(model)
    model.output = nn.Linear(32, 32)
    handle.bake()  # nothing is tuned: nothing to fold
    apply(handle, varied(handle.sites))
    with pytest.raises(ValueError, match=r"site 'attention' cannot be baked: .* was replaced"):
        handle.bake()


def test_a_projection_whose_weight_is_computed_cannot_be_baked():
    model = OwnModel()
    nn.utils.parametrizations.orthogonal(model.query)
    handle = attached(model)
    apply(handle, varied(handle.sites))
    with pytest.raises(ValueError, match="no plain Linear"):
        handle.bake()


def test_an_overflow_in_half_precision_is_told_and_left_out():
    model = OwnModel()
    handle = attached(model, endpoint="ipc:///nobody/there")
    with torch.no_grad():
        model.query.weight.fill_(math.inf)
    with pytest.warns(RuntimeWarning, match="site 'attention' measured values that are no finite"):
        for _ in range(8):
            handle.step(model(batch()).mean() * 0 + 1.0)
    assert all(map(math.isfinite, handle.last_observation.metrics))
    handle.remove()


def test_a_model_in_half_that_overflows_trains_on():
    model = OwnModel().half()
    x = batch().half()
    try:
        model(x)
    except RuntimeError:
        pytest.skip("this PyTorch cannot compute in half on a processor")
    handle = attached(model, endpoint="ipc:///nobody/there")
    with torch.no_grad():
        model.query.weight.fill_(30_000)
    with pytest.warns(RuntimeWarning, match="site 'attention' measured values that are no finite"):
        for _ in range(8):
            handle.step(model(x).float().mean() * 0 + 1.0)
    assert all(map(math.isfinite, handle.last_observation.metrics))
    handle.remove()


def test_gradients_that_overflow_in_a_scaled_loss_are_told_and_left_out():
    model = OwnModel()
    handle = attached(model, endpoint="ipc:///nobody/there")
    model(batch()).square().mean().backward()
    handle.step(1.0)
    before = list(handle.last_observation.metrics)
    with pytest.warns(RuntimeWarning, match="site 'attention' measured an importance that is no"):
        for _ in range(7):
            (model(batch(31)).square().mean() * math.inf).backward()
            handle.step(1.0, loss_scale=2.0**16)
    after = list(handle.last_observation.metrics)
    assert all(map(math.isfinite, after))
    importance = METRICS.index("importance")
    for head in range(4):
        row = slice(head * len(METRICS), (head + 1) * len(METRICS))
        assert after[row][importance] == before[row][importance]
        assert after[row][0] != before[row][0]  # the entropy is the last step's
    handle.remove()


def test_a_loss_of_several_numbers_counts_by_their_mean_and_one_that_is_none_harms_nothing():
    model = OwnModel()
    handle = attached(model, endpoint="ipc:///nobody/there")
    handle.step(model(batch()).mean() * 0 + torch.tensor([1.0, 3.0]))
    assert handle.last_observation.loss == 2.0
    with pytest.warns(RuntimeWarning, match="the loss of this step is left out"):
        handle.step("much")
    assert handle.steps == 2
    handle.remove()


def test_a_job_that_goes_on_and_fails_at_once_says_where_it_stood(router):
    first = attached(OwnModel(), endpoint="ipc:///nobody/there")
    state = {**first.state_dict(), "key": "another", "step": 50, "compute_seconds": 7.5}
    first.remove()
    handle = attached(OwnModel(), state=state)
    wait_until(handle.probe._line._writable)  # nobody waits for a line that is not there yet
    del handle
    gc.collect()
    hello, bye = (router.receive(PATIENCE_SECONDS * 1000) for _ in range(2))
    assert isinstance(hello, Hello)
    assert isinstance(bye, Bye)
    assert (hello.job.key, hello.step) == ("another", 50)
    assert (bye.outcome, bye.step, bye.compute_seconds) == (Outcome.FAILED, 50, 7.5)


def test_a_key_that_comes_back_with_another_topology_is_turned_away_and_trains_on(tmp_path):
    with attuned(tmp_path) as endpoint:
        model, changed = OwnModel(), encoder()
        first = attached(model, key="run-9", endpoint=endpoint)
        wait_until(lambda: train(model, first, batch(), 1) or first.probe.met)
        second = attached(changed, key="run-9", endpoint=endpoint)
        with pytest.warns(RuntimeWarning, match="attuned: .*run-9") as caught:
            wait_until(lambda: train(changed, second, batch(), 1) or caught.list)
        before = second.steps
        train(changed, second, batch(), 20)
        assert second.steps == before + 20
        assert len(caught) == 1
        first.finish()
        second.finish()


def test_an_endpoint_that_does_not_speak_zeromq_is_no_daemon(tmp_path, monkeypatch):
    monkeypatch.setattr("attune.handle._PATIENCE_SECONDS", 0.0)
    model = OwnModel()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        handle = attached(model, endpoint=f"ipc://{tmp_path}/socket")
        peer, _ = listener.accept()
        with peer, pytest.warns(RuntimeWarning, match="no daemon answers") as caught:
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            train(model, handle, batch(), 20)
            handle.finish()
    assert len(caught) == 1
    assert handle.steps == 20


def test_an_endpoint_that_says_what_attune_does_not_is_named(router):
    model = OwnModel()
    handle = attached(model)
    next_of(router, Hello, trainer(model, handle))
    router.send_raw(b"GET / HTTP/1.1")
    with pytest.warns(RuntimeWarning, match="ipc://.* cannot be read .*is it attuned's") as caught:
        wait_until(lambda: train(model, handle, batch(), 1) or caught.list)
    handle.remove()


def test_a_step_never_raises_because_of_attune(monkeypatch):
    model = OwnModel()
    handle = attached(model)

    def broken(*_, **__):
        raise OSError("the disk is gone")

    monkeypatch.setattr(handle.probe, "poll", broken)
    with pytest.warns(RuntimeWarning, match="OSError: the disk is gone; training goes on"):
        assert not handle.step(1.0)


@pytest.mark.parametrize("failing", ["attune.line.encode", "attune.probe.Probe.finish"])
def test_the_end_never_raises_because_of_attune(router, monkeypatch, failing):
    model = OwnModel()
    handle = attached(model)
    next_of(router, Hello, trainer(model, handle))

    def broken(*_):
        raise OverflowError("too large")

    with monkeypatch.context() as patched:
        patched.setattr(failing, broken)
        with pytest.warns(RuntimeWarning, match="too large"):
            handle.finish()
    # Where the line itself failed it is closed: it must not fail anew at the interpreter's exit.
    assert handle.probe.due(1) == (failing == "attune.probe.Probe.finish")


def test_losses_and_rates_may_be_tensors_as_trainers_have_them(router):
    model = OwnModel()
    handle = attached(model, learning_rate=torch.tensor([1e-3]))
    assert next_of(router, Hello, trainer(model, handle)).job.learning_rate == pytest.approx(1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle.finish(torch.tensor(1.5, requires_grad=True))


def test_an_optimiser_may_be_named_by_its_class_itself():
    assert attached(OwnModel(), optimizer=torch.optim.AdamW).job.optimizer == "AdamW"


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        ("gpt2", {}, TypeError, "model: it is of type str"),
        (OwnModel(), {"budget": 100}, TypeError, r"budget: .* int; use attune.Budget.steps\(n\)"),
        (OwnModel(), {"name": None}, TypeError, "name: it is of type NoneType"),
        (OwnModel(), {"key": 5}, TypeError, "key: it is of type int"),
        (OwnModel(), {"learning_rate": "1e-3"}, TypeError, "learning_rate: it is of type str"),
        (OwnModel(), {"learning_rate": torch.ones(2)}, TypeError, "learning_rate: .* of one"),
        (OwnModel(), {"learning_rate": -1.0}, ValueError, "learning rate: it is -1.0"),
        (OwnModel(), {"state": {}}, ValueError, "state: it has no 'key'"),
        (OwnModel(), {"state": OwnModel().state_dict()}, ValueError, "state: it has no 'key'"),
        (OwnModel(), {"state": 3}, TypeError, "state: it is of type int"),
        (OwnModel(), {"name": ""}, ValueError, "name is empty"),
        (OwnModel(), {"budget": attune.Budget.steps(0)}, ValueError, "budget: the amount is 0.0"),
        (OwnModel(), {"budget": attune.Budget.steps(math.nan)}, ValueError, "the amount is nan"),
    ],
)
def test_arguments_that_are_wrong_are_refused_with_and_without_a_daemon(
    model, options, error, words, mode, monkeypatch
):
    monkeypatch.setenv("ATTUNE_MODE", mode)
    with pytest.raises(error, match=words):
        attune.attach(model, **{"budget": attune.Budget.steps(10), **options})
    if model != "gpt2":
        assert not any("attune" in name for name in model.state_dict())


def test_a_mode_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("ATTUNE_MODE", "offf")
    with pytest.raises(ValueError, match="ATTUNE_MODE is 'offf'; use on, off or offline"):
        attached(OwnModel())


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (nn.Linear(3, 3), {}, "Linear has no attention"),
        (OwnModel(), {"endpoint": "nonsense"}, "endpoint 'nonsense'"),
        (OwnModel(), {"endpoint": "ipc:///x", "name": "a\x9b"}, "name has a control character"),
    ],
)
def test_what_cannot_be_attached_is_refused_and_the_model_left_as_it_was(model, options, words):
    names = list(model.state_dict())
    options = {"budget": attune.Budget.steps(10), **options}
    with pytest.raises(ValueError, match=words):
        attune.attach(model, **options)
    assert list(model.state_dict()) == names


def test_a_model_is_attached_once_at_a_time():
    model = OwnModel()
    handle = attached(model)
    with pytest.raises(ValueError, match="tuned already"):
        attached(model)
    handle.remove()
    attached(model).remove()


def test_attention_that_cannot_be_tuned_is_left_out_by_name():
    model = nn.Sequential(nn.MultiheadAttention(8, 2, add_bias_kv=True), OwnModel())
    with pytest.warns(UserWarning, match="'0' is left out"):
        handle = attached(model)
    assert [site.name for site in handle.sites] == ["1.attention"]


class OwnMultiheadAttention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


def test_subclasses_of_multihead_attention_are_left_out_by_name():
    model = nn.Sequential(OwnMultiheadAttention(8, 2), OwnModel())
    with pytest.warns(UserWarning, match="'0' is left out: OwnMultiheadAttention is no plain"):
        handle = attached(model)
    assert [site.name for site in handle.sites] == ["1.attention"]


def test_parametrized_multihead_attention_is_left_out_by_name():
    module = nn.MultiheadAttention(8, 2)
    nn.utils.parametrizations.spectral_norm(module, "in_proj_weight")
    with pytest.warns(UserWarning, match="'1' is left out: .*remove parametrizations"):
        attached(nn.Sequential(OwnModel(), module))


class Adapter:
    """Of modules of one's own, with two heads."""

    def __init__(self, kind):
        self._kind = kind

    def find(self, model):
        for name, module in model.named_modules():
            if isinstance(module, self._kind):
                yield name, module, attune.Site(name, heads=2, head_width=4, context=8)

    def install(self, module, tuning):
        module.attune = tuning
        return lambda: delattr(module, "attune")

    def bake(self, module, setting):
        pass


def test_a_subclass_that_an_adapter_of_ones_own_takes_is_not_left_out():
    model = nn.Sequential(OwnMultiheadAttention(8, 2), OwnModel())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle = attached(
            model, adapters=[Adapter(OwnMultiheadAttention), *attune.adapters.default()]
        )
    assert [site.name for site in handle.sites] == ["0", "1.attention"]


def test_a_module_that_is_registered_twice_is_one_site():
    inner = OwnModel()
    model = nn.ModuleList([inner, inner])
    assert len(attached(model).sites) == 1


def test_an_adapter_of_ones_own_is_three_methods():
    class Gated(nn.Module):
        def forward(self, x):
            tuning = self._modules.get("attune")
            kernel = lambda q, k, v, mask: q  # noqa: E731
            return x if tuning is None else tuning.attend(x, x, x, kernel, scaling=1.0)

    model = nn.Sequential(Gated())
    handle = attached(model, adapters=[Adapter(Gated)])
    setting = attune.Setting.neutral(2)
    setting.gain[1] = 3.0
    apply(handle, setting)
    x = torch.ones(1, 2, 8, 4)
    assert model(x)[0, :, 0, 0].tolist() == [1.0, 3.0]
    handle.remove()
    assert torch.equal(model(x), x)
