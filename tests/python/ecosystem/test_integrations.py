"""attune in other people's loops: Hugging Face's Trainer, Lightning's, and TensorBoard."""

import warnings
from types import SimpleNamespace

import attune
import lightning
import pytest
import torch
from attune.integrations import huggingface, tensorboard
from attune.integrations import lightning as in_lightning
from attune.protocol import Bye, Hello, Observation, decode
from attune.tuned import TunedModel
from models import apply, attached, encoder, train, varied
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


@pytest.fixture
def log(tmp_path, monkeypatch):
    """What the job says, read from its offline log when it has ended."""
    monkeypatch.setenv("ATTUNE_MODE", "offline")
    monkeypatch.setenv("ATTUNE_DIR", str(tmp_path / "logs"))
    monkeypatch.delenv("ATTUNE_JOB", raising=False)

    def read():
        (file,) = sorted((tmp_path / "logs").iterdir())[-1:]
        rest, messages = file.read_bytes()[16:], []
        while rest:
            length = int.from_bytes(rest[:4], "little")
            messages.append(decode(rest[4 : 4 + length]))
            rest = rest[4 + length :]
        return messages

    return read


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=16, n_positions=24, n_embd=32, n_layer=2, n_head=4)
    )


def sentences(count=64):
    rows = torch.randint(0, 16, (count, 24), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in rows]


def hugging_face(folder, callback, steps=16, model=None, evaluated=None, **options):
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        **options,
    )
    rows = sentences()
    evaluated = evaluated or rows[:4]
    return Trainer(model or gpt2(), arguments, None, rows, evaluated, callbacks=[callback])


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = gpt2()
        self.losses = []

    def training_step(self, batch, _):
        loss = self.model(**batch).loss
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def fit(folder, callback, steps=16, module=None, checkpoint=None, **options):
    module = module or Module()
    trainer = lightning.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        callbacks=callback,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    rows = DataLoader(sentences(), 4)
    trainer.fit(module, rows, rows, ckpt_path=checkpoint)
    return trainer, module


def test_the_callbacks_measure_importance_by_the_loss_before_it_was_scaled(monkeypatch):
    scaler = SimpleNamespace(get_scale=lambda: 1024.0)
    for callback, begin, end in (
        (
            huggingface.AttuneCallback(),
            lambda one: one.on_step_begin(None, None, None, SimpleNamespace(scaler=scaler)),
            lambda one: one.on_step_end(SimpleNamespace(world_size=1), None, None),
        ),
        (
            in_lightning.AttuneCallback(),
            lambda one: one.on_train_batch_start(fake_trainer(scaler, 0), None, None, 0),
            lambda one: one.on_train_batch_end(fake_trainer(scaler, 1), None, None, None, 0),
        ),
    ):
        scales = []
        callback.handle = SimpleNamespace(
            probe=SimpleNamespace(due=lambda step: False),
            start_step=lambda: None,
            step=lambda loss, loss_scale, kept=scales: kept.append(loss_scale),
        )
        begin(callback)
        end(callback)
        assert scales == [1024.0]


def fake_trainer(scaler, step):
    return SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=scaler),
        global_step=step,
        accumulate_grad_batches=1,
    )


def test_the_hugging_face_callback_reports_the_job_from_hello_to_bye(tmp_path, log):
    callback = huggingface.AttuneCallback(name="hf")
    trainer = hugging_face(tmp_path, callback, eval_strategy="steps", eval_steps=16)
    trainer.train()
    hello, *observations, bye = log()
    assert isinstance(hello, Hello)
    assert hello.job.name == "hf"
    assert hello.job.budget == attune.Budget.steps(16)
    assert hello.job.learning_rate == pytest.approx(trainer.args.learning_rate)
    assert hello.job.optimizer == "AdamW"
    assert [message.step for message in observations] == list(range(1, 17))
    assert isinstance(bye, Bye)
    evaluated = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert bye.validation_loss == pytest.approx(evaluated[-1])


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_hugging_face_callback_reports_the_loss_that_the_trainer_logs(
    tmp_path, log, accumulated
):
    callback = huggingface.AttuneCallback()
    trainer = hugging_face(tmp_path, callback, gradient_accumulation_steps=accumulated)
    trainer.train()
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    reported = [message.loss for message in log() if isinstance(message, Observation)]
    assert reported == pytest.approx([float(loss) for loss in logged], abs=2e-3)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_hugging_face_trainer_that_is_watched_tells_the_loss_that_outputs_do_not_carry(
    tmp_path, log, accumulated
):
    callback = huggingface.AttuneCallback()
    options = {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": accumulated}
    trainer = hugging_face(tmp_path, callback, **options)
    callback.watch(trainer)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "attune")
        trainer.train()
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    reported = [message.loss for message in log() if isinstance(message, Observation)]
    assert reported == pytest.approx([float(loss) for loss in logged], abs=2e-3)


def test_outputs_without_a_loss_are_told_once_with_what_to_do(tmp_path, log):
    trainer = hugging_face(tmp_path, huggingface.AttuneCallback(), label_smoothing_factor=0.1)
    with pytest.warns(RuntimeWarning, match=r"no training loss .*AttuneCallback.watch") as caught:
        trainer.train()
    assert sum("no training loss" in str(one.message) for one in caught) == 1


@pytest.mark.parametrize(
    ("best", "expected"),
    [(None, lambda a, b: (a + b) / 2), ("eval_b_loss", lambda _, b: b), ("b_loss", lambda _, b: b)],
)
def test_the_validation_loss_of_several_datasets_is_the_one_that_is_named_or_their_mean(
    tmp_path, log, best, expected
):
    rows = sentences()
    options = {"eval_strategy": "steps", "eval_steps": 4, "metric_for_best_model": best}
    datasets = {"a": rows[:4], "b": rows[4:8]}
    trainer = hugging_face(
        tmp_path, huggingface.AttuneCallback(), steps=8, evaluated=datasets, **options
    )
    trainer.train()
    history = trainer.state.log_history
    last = {name: value for row in history for name, value in row.items()}
    loss = expected(last["eval_a_loss"], last["eval_b_loss"])
    assert log()[-1].validation_loss == pytest.approx(loss)


def test_a_resumed_hugging_face_trainer_is_the_same_job_with_its_setting(tmp_path, log):
    first = huggingface.AttuneCallback()
    trainer = hugging_face(tmp_path, first, steps=8, save_steps=4)

    class Act(huggingface.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 2:
                apply(first.handle, varied(first.handle.sites))

    trainer.add_callback(Act())
    trainer.train()
    second = huggingface.AttuneCallback()
    seen = []

    class Look(huggingface.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            seen.append(second.handle.setting)

    again = hugging_face(tmp_path, second, steps=8)
    again.add_callback(Look())
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert second.handle.job.key == first.handle.job.key
    assert second.handle.steps == 8
    assert seen == [varied(first.handle.sites)] * 4


class TunedAtTheEnd(huggingface.TrainerCallback):
    """Acts before the last step, and keeps what the model says behind it."""

    def __init__(self, callback, rows):
        self.callback, self.rows, self.said = callback, rows, None

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == state.max_steps - 1:
            apply(self.callback.handle, varied(self.callback.handle.sites))
        elif state.global_step == state.max_steps:
            self.said = logits(model, self.rows)


def refuse(self, attached):
    """In place of `TunedModel.bake`."""
    raise ValueError("site 'h.0' cannot be baked: its weights are quantized")


def test_a_model_that_was_only_watched_is_as_it_was_though_it_could_not_be_baked(
    tmp_path, log, monkeypatch
):
    monkeypatch.setattr(TunedModel, "bake", refuse)
    trainer = hugging_face(tmp_path, huggingface.AttuneCallback(), steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        trainer.train()
    assert not [name for name in trainer.model.state_dict() if "attune" in name]


def logits(model, rows):
    training = model.training
    model.eval()
    with torch.no_grad():
        said = model(input_ids=rows).logits
    model.train(training)
    return said


def test_what_hugging_faces_trainer_saves_is_a_plain_model_that_says_what_the_tuned_one_said(
    tmp_path, log
):
    rows = torch.stack([row["input_ids"] for row in sentences(4)])
    callback = huggingface.AttuneCallback()
    trainer = hugging_face(tmp_path, callback, steps=4)
    tuned = TunedAtTheEnd(callback, rows)
    trainer.add_callback(tuned)
    trainer.train()
    torch.testing.assert_close(logits(trainer.model, rows), tuned.said)
    assert not [name for name in trainer.model.state_dict() if "attune" in name]
    trainer.save_model(str(tmp_path / "saved"))
    plain = GPT2LMHeadModel.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(plain, rows), tuned.said)
    torch.testing.assert_close(logits(callback.handle.bake(), rows), tuned.said)


def test_the_best_checkpoint_is_saved_as_it_was_tuned(tmp_path, log):
    rows = torch.stack([row["input_ids"] for row in sentences(4)])
    callback = huggingface.AttuneCallback()
    trainer = hugging_face(
        tmp_path,
        callback,
        steps=4,
        eval_strategy="steps",
        eval_steps=4,
        save_steps=4,
        load_best_model_at_end=True,
    )
    tuned = TunedAtTheEnd(callback, rows)
    trainer.add_callback(tuned)
    trainer.train()
    torch.testing.assert_close(logits(trainer.model, rows), tuned.said)


def test_a_model_that_cannot_be_baked_keeps_its_tuning_and_says_so(tmp_path, log, monkeypatch):
    monkeypatch.setattr(TunedModel, "bake", refuse)
    rows = torch.stack([row["input_ids"] for row in sentences(4)])
    callback = huggingface.AttuneCallback()
    trainer = hugging_face(tmp_path, callback, steps=4)
    tuned = TunedAtTheEnd(callback, rows)
    trainer.add_callback(tuned)
    with pytest.warns(RuntimeWarning, match="quantized; the model keeps its tuning"):
        trainer.train()
    torch.testing.assert_close(logits(trainer.model, rows), tuned.said)


def test_a_hugging_face_trainer_that_trains_again_begins_another_job(tmp_path, log, monkeypatch):
    rows = torch.stack([row["input_ids"] for row in sentences(4)])
    callback = huggingface.AttuneCallback()
    trainer = hugging_face(tmp_path, callback, steps=4)
    tuned = TunedAtTheEnd(callback, rows)
    trainer.add_callback(tuned)
    with monkeypatch.context() as patch:
        patch.setattr(TunedModel, "bake", refuse)  # so that the first one's tuning stays
        with pytest.warns(RuntimeWarning, match="keeps its tuning"):
            trainer.train()
    first = callback.handle
    assert first.setting == varied(first.sites)
    trainer.remove_callback(tuned)
    found, began = [], []

    class Look(huggingface.TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **_):
            found.append(callback.handle.setting)
            began.append(logits(model, rows))

    trainer.add_callback(Look())
    trainer.train()
    assert callback.handle.job.key != first.job.key
    assert callback.handle.steps == 4
    assert found[0] == attune.Setting.neutral(8)
    torch.testing.assert_close(began[0], tuned.said)  # its tuning is in the weights
    assert "removed" in first.apply(varied(first.sites))


def test_a_hugging_face_model_whose_training_was_interrupted_is_trained_on_as_it_was_tuned(
    tmp_path, log
):
    rows = torch.stack([row["input_ids"] for row in sentences(4)])
    said = []

    class Interrupt(huggingface.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            handle = attune.Handle.of(model)
            apply(handle, varied(handle.sites))
            said.append(logits(model, rows))
            raise KeyboardInterrupt

    class Look(huggingface.TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **_):
            said.append(logits(model, rows))

    trainer = hugging_face(tmp_path, huggingface.AttuneCallback(), steps=4)
    trainer.add_callback(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    callback = huggingface.AttuneCallback()
    again = hugging_face(tmp_path, callback, steps=1, model=trainer.model)
    again.add_callback(Look())
    again.train()
    torch.testing.assert_close(said[1], said[0])
    assert (callback.handle.steps, attune.Handle.of(again.model)) == (1, None)


@pytest.fixture
def told_fresh(monkeypatch):
    """What `attach` was told of the weights, once a job."""
    told = []
    for module in (huggingface, in_lightning):

        def attach(*arguments, attach=module.attach, **options):
            told.append(options["fresh"])
            return attach(*arguments, **options)

        monkeypatch.setattr(module, "attach", attach)
    return told


def test_to_hugging_faces_callback_weights_are_fresh_before_they_were_trained(
    tmp_path, log, told_fresh
):
    trainer = hugging_face(tmp_path, huggingface.AttuneCallback(fresh=True), steps=4, save_steps=2)
    trainer.train()
    trainer.train()  # the same model goes on
    assert told_fresh == [True, False]
    # From a checkpoint that knows nothing of attune.
    plain = hugging_face(tmp_path / "plain", huggingface.TrainerCallback(), steps=4, save_steps=2)
    plain.train()
    resumed = hugging_face(
        tmp_path / "plain", huggingface.AttuneCallback(fresh=True), steps=4, save_steps=2
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-2"))
    assert told_fresh == [True, False, False]


def test_to_lightnings_callback_weights_are_fresh_before_they_were_trained(
    tmp_path, log, told_fresh
):
    trainer, _ = fit(tmp_path, lightning.Callback(), steps=2)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    fit(tmp_path, in_lightning.AttuneCallback(fresh=True), steps=4)
    fit(
        tmp_path,
        in_lightning.AttuneCallback(fresh=True),
        steps=4,
        checkpoint=tmp_path / "plain.ckpt",
    )
    fit(tmp_path, in_lightning.AttuneCallback(), steps=4)
    assert told_fresh == [True, False, False]


def test_the_lightning_callback_reports_the_job_from_hello_to_bye(tmp_path, log):
    trainer, module = fit(tmp_path, in_lightning.AttuneCallback(name="l"))
    hello, *observations, bye = log()
    assert hello.job.name == "l"
    assert hello.job.budget == attune.Budget.steps(16)
    assert hello.job.learning_rate == pytest.approx(0.05)
    assert hello.job.optimizer == "SGD"
    assert [message.step for message in observations] == list(range(1, 17))
    assert [message.loss for message in observations] == pytest.approx(module.losses, rel=1e-5)
    assert bye.validation_loss == pytest.approx(float(trainer.callback_metrics["val_loss"]))


def test_a_lightning_optimisers_rate_may_be_a_tensor(tmp_path, log):
    class RateOfTensor(Module):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), torch.tensor(1e-3), foreach=False)

    fit(tmp_path, in_lightning.AttuneCallback(), module=RateOfTensor())
    assert log()[0].job.learning_rate == pytest.approx(1e-3)


def test_with_accumulation_lightnings_optimiser_steps_are_the_jobs_steps(tmp_path, log):
    callback = in_lightning.AttuneCallback()
    _, module = fit(tmp_path, callback, steps=8, accumulate_grad_batches=2)
    assert callback.handle.steps == 8
    reported = [message.loss for message in log() if isinstance(message, Observation)]
    pairs = zip(module.losses[::2], module.losses[1::2], strict=True)
    assert reported == pytest.approx([sum(pair) / 2 for pair in pairs], rel=1e-5)


@pytest.mark.parametrize("budget", [attune.Budget.steps(8), None])
def test_a_resumed_lightning_trainer_has_its_setting_and_is_the_same_job_unless_made_longer(
    tmp_path, log, budget
):
    first = in_lightning.AttuneCallback(budget=budget)

    class Act(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                apply(first.handle, varied(first.handle.sites))

    module = Module()
    trainer, _ = fit(tmp_path, first, steps=4, module=module)
    apply(first.handle, varied(first.handle.sites))
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    trained = {name: weight.clone() for name, weight in module.named_parameters()}
    found = {}

    class Look(lightning.Callback):
        def on_train_start(self, trainer, module):
            found.update({name: one.detach().clone() for name, one in module.named_parameters()})

    second = in_lightning.AttuneCallback(budget=budget)
    again = Module()
    fit(tmp_path, [second, Look()], steps=8, module=again, checkpoint=tmp_path / "saved.ckpt")
    assert all(torch.equal(found[name], weight) for name, weight in trained.items())
    assert (second.handle.job.key == first.handle.job.key) == (budget is not None)
    assert second.handle.job.budget == attune.Budget.steps(8)
    assert second.handle.steps == 8
    assert second.handle.setting == varied(first.handle.sites)


@pytest.fixture
def saved(tmp_path, log):
    """A checkpoint of a tuned module, with who has made it and what the module said."""
    rows = torch.stack([row["input_ids"] for row in sentences(4)])
    callback = in_lightning.AttuneCallback()
    trainer, module = fit(tmp_path, callback, steps=4)
    apply(callback.handle, varied(callback.handle.sites))
    file = tmp_path / "saved.ckpt"
    trainer.save_checkpoint(file)
    return SimpleNamespace(
        file=file,
        callback=callback,
        trainer=trainer,
        module=module,
        rows=rows,
        said=logits(module.model, rows),
    )


def test_a_lightning_checkpoint_loads_into_a_plain_module_that_says_what_the_tuned_one_said(saved):
    plain = Module.load_from_checkpoint(saved.file, weights_only=False)
    torch.testing.assert_close(logits(plain.model, saved.rows), saved.said)


def test_a_weight_of_two_names_is_in_a_lightning_checkpoint_as_it_was_tuned_under_both(
    tmp_path, log
):
    class Named(Module):
        def __init__(self):
            super().__init__()
            self.encoder = self.model.transformer

    rows = torch.stack([row["input_ids"] for row in sentences(4)])
    callback = in_lightning.AttuneCallback()
    trainer, module = fit(tmp_path, callback, steps=4, module=Named())
    apply(callback.handle, varied(callback.handle.sites))
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    plain = Named.load_from_checkpoint(tmp_path / "saved.ckpt", weights_only=False)
    torch.testing.assert_close(logits(plain.model, rows), logits(module.model, rows))


@pytest.mark.parametrize("anew", [False, True], ids=["callback", "new callback"])
def test_a_lightning_trainer_that_fits_again_trains_on_what_was_tuned(anew, tmp_path, log):
    rows = torch.stack([row["input_ids"] for row in sentences(4)])
    callback = in_lightning.AttuneCallback()
    _, module = fit(tmp_path, callback, steps=4)
    first = callback.handle
    apply(first, varied(first.sites))
    said = logits(module.model, rows)
    began = []
    if anew:
        callback = in_lightning.AttuneCallback()

    class Look(lightning.Callback):
        def on_train_batch_start(self, trainer, module, *_):
            began.append((callback.handle.setting, logits(module.model, rows)))

    fit(tmp_path, [callback, Look()], steps=2, module=module)
    assert callback.handle.job.key != first.job.key
    assert began[0][0] == attune.Setting.neutral(8)
    torch.testing.assert_close(began[0][1], said)


def test_a_lightning_checkpoint_is_looked_at_as_it_is_by_a_module_that_is_not_tuned(saved):
    validation = DataLoader(sentences(), 4)
    another = Module()
    saved.trainer.validate(another, validation, ckpt_path=saved.file, verbose=False)
    torch.testing.assert_close(logits(another.model, saved.rows), saved.said)
    saved.callback.handle.bake_in_place()
    saved.trainer.validate(saved.module, validation, ckpt_path=saved.file, verbose=False)
    torch.testing.assert_close(logits(saved.module.model, saved.rows), saved.said)


def test_a_finished_lightning_job_that_is_begun_again_is_plain(saved, tmp_path):
    again = Module()  # nothing is left to train: it is not attached to
    fit(tmp_path, in_lightning.AttuneCallback(), steps=4, module=again, checkpoint=saved.file)
    torch.testing.assert_close(logits(again.model, saved.rows), saved.said)


def test_a_lightning_module_that_cannot_be_baked_is_saved_untuned_and_that_is_said(
    tmp_path, log, monkeypatch
):
    callback = in_lightning.AttuneCallback()
    trainer, module = fit(tmp_path, callback, steps=4)
    apply(callback.handle, varied(callback.handle.sites))

    monkeypatch.setattr(TunedModel, "bake", refuse)
    with pytest.warns(RuntimeWarning, match="quantized; its checkpoints have the weights without"):
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
    weights = torch.load(tmp_path / "saved.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(weights[name], one) for name, one in module.named_parameters())


def test_a_lightning_checkpoint_that_is_only_tested_is_tested_as_it_was_tuned(tmp_path, log):
    callback = in_lightning.AttuneCallback()
    trainer, module = fit(tmp_path, callback, steps=4)
    handle = callback.handle
    apply(handle, varied(handle.sites))
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    texts = torch.stack([row["input_ids"] for row in sentences(4)])
    said = logits(module.model, texts)
    apply(handle, attune.Setting.neutral(8))
    rows = DataLoader(sentences(), 4)
    trainer.validate(module, rows, ckpt_path=tmp_path / "saved.ckpt", verbose=False)
    assert handle.setting == varied(handle.sites)
    torch.testing.assert_close(logits(module.model, texts), said)
    # What was looked at is not gone on from.
    trainer.fit_loop.epoch_loop.max_steps = 8
    trainer.fit(module, rows, rows)
    assert callback.handle.job.key != handle.job.key


def test_a_lightning_trainer_without_an_end_needs_a_budget(tmp_path, log):
    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 2

    def run(callback):
        trainer = lightning.Trainer(
            default_root_dir=tmp_path,
            max_epochs=-1,
            callbacks=[callback, Stop()],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        rows = DataLoader(sentences(), 4)
        trainer.fit(Module(), rows, rows)

    endless = in_lightning.AttuneCallback()
    with pytest.warns(UserWarning, match="give AttuneCallback a budget"):
        run(endless)
    assert endless.handle is None
    told = in_lightning.AttuneCallback(budget=attune.Budget.steps(100))
    run(told)
    assert told.handle.job.budget == attune.Budget.steps(100)


def test_a_lightning_job_that_throws_has_failed(tmp_path, log):
    class Broken(Module):
        def training_step(self, batch, index):
            if index == 3:
                raise RuntimeError("broken")
            return super().training_step(batch, index)

    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, in_lightning.AttuneCallback(), module=Broken())
    assert log()[-1].outcome == attune.Outcome.FAILED


def test_tensorboard_has_a_scalar_for_every_site_and_heat_maps(tmp_path, log):
    model = encoder().train()
    handle = attached(model)
    handle.apply(varied(handle.sites))
    with SummaryWriter(tmp_path / "runs") as writer:
        for _ in range(16):
            train(model, handle, torch.randn(2, 20, 32), 1)
            tensorboard.write(writer, handle)
    events = EventAccumulator(str(tmp_path / "runs")).Reload()
    assert [event.step for event in events.Scalars("attune/imbalance")] == list(range(1, 17))
    for site in handle.sites:
        active = [event.value for event in events.Scalars(f"attune/active_heads/{site.name}")]
        assert active == [3] * 16
        assert 0 < events.Scalars(f"attune/entropy/{site.name}")[-1].value <= 1
    image = events.Images("attune/heat_map/profile")[0]
    assert (image.width, image.height) == (16 * 12, 8 * 12)


def test_even_attention_has_no_imbalance_and_a_single_bin_the_most():
    def observation(rows):
        flat = attune.values.floats([value for row in rows for value in row])
        heads = len(rows)
        metrics = attune.values.floats([0.0] * 7 * heads)
        return Observation(1, 1.0, 1.0, 0.1, active=b"\x01" * heads, metrics=metrics, profile=flat)

    even, single = [1 / 16] * 16, [1.0] + [0.0] * 15
    assert tensorboard.imbalance(observation([even, even])) == pytest.approx(0)
    assert tensorboard.imbalance(observation([single])) == pytest.approx(2 - 2 / 16)
