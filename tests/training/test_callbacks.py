"""Callbacks, the control object, and the public methods of the trainer."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pictures, tiny_critic, tiny_generator, tiny_images
from datasets import Dataset, Features, Image
from processes import ended, free_port, join, outcome, start

from hf_wgan import InputError, TrainerCallback, TrainerControl, WGANPipeline, WGANTrainer
from hf_wgan.algorithm.lipschitz import WeightClipping
from hf_wgan.data import DataConfig, images_of
from hf_wgan.training import report
from hf_wgan.training.checkpoint import damage
from hf_wgan.utils import files
from hf_wgan.utils.errors import CallbackError

EVENTS = ("on_train_begin", "on_step_end", "on_evaluate", "on_log", "on_sample", "on_save", "on_train_end")
EVALUATED = {"evaluation_steps": 2, "evaluation_features": "pixels", "num_evaluation_images": 20}


def trainer(config, *callbacks, **options):
    return WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config, callbacks=callbacks, **options)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Recorder(TrainerCallback):
    """Records every event with its step and values."""

    def __init__(self):
        self.events = []


def recorded(event):
    def method(self, args, state, control, **kwargs):
        self.events.append((event, state.global_step, kwargs))

    return method


for event in EVENTS:
    setattr(Recorder, event, recorded(event))


def acting(event, act):
    """Return a callback that acts at an event."""

    def method(self, args, state, control, **kwargs):
        act(state, control, **kwargs)

    return type("Acting", (TrainerCallback,), {event: method})()


class Remembers(TrainerCallback):
    """Has a state."""

    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"best": [self.value]}

    def load_state_dict(self, state):
        (self.value,) = state["best"]


def test_every_event_comes_in_order_with_its_values(tiny_config, tmp_path):
    recorder = Recorder()
    run = trainer(tiny_config(**EVALUATED), recorder)
    pipeline = run.train()
    assert [(event, step) for event, step, _ in recorder.events] == [
        *[("on_train_begin", 0), ("on_sample", 0)],
        *[("on_step_end", 1), ("on_log", 1), ("on_sample", 1)],
        *[("on_step_end", 2), ("on_evaluate", 2), ("on_log", 2), ("on_sample", 2), ("on_save", 2)],
        *[("on_step_end", 3), ("on_log", 3)],
        *[("on_step_end", 4), ("on_evaluate", 4), ("on_log", 4), ("on_sample", 4), ("on_save", 4)],
        ("on_train_end", 4),
    ]
    values = {event: kwargs for event, _, kwargs in recorder.events}
    for kwargs in values.values():
        assert kwargs["generator"] is run.generator and kwargs["critic"] is run.critic
    row = rows(tmp_path / "run")[-1]
    assert "20 training images" in row.pop("evaluation_settings"), "a text, which trackers do not take"
    assert {"step": 4, **values["on_log"]["logs"]} == row
    assert values["on_log"]["logs"].items() >= values["on_evaluate"]["metrics"].items()
    assert torch.isfinite(values["on_step_end"]["record"].critic_loss)
    assert len(values["on_sample"]["images"]) == 4
    assert values["on_save"]["checkpoint"] == tmp_path / "run" / "checkpoint-000004"
    assert isinstance(values["on_evaluate"]["pipeline"], WGANPipeline)
    assert values["on_train_end"]["pipeline"] is pipeline and not values["on_train_end"]["interrupted"]


def test_a_checkpoint_is_whole_when_a_callback_hears_of_it(tiny_config):
    wholes = []
    trainer(
        tiny_config(), acting("on_save", lambda state, control, checkpoint, **rest: wholes.append(damage(checkpoint)))
    ).train()
    assert wholes == ["", ""]


@pytest.mark.parametrize("event", ["on_step_end", "on_log", "on_sample", "on_save"])
def test_a_control_that_a_callback_returns_counts(event, tiny_config):
    def method(self, args, state, control, **kwargs):
        return TrainerControl(should_training_stop=True) if state.global_step >= 2 else control

    stops = type("Stops", (TrainerCallback,), {event: method})()
    run = trainer(tiny_config(max_train_steps=7, checkpointing_steps=2, validation_steps=2), stops)
    run.train()
    assert run.state.global_step == 2 and not run.interrupted and run.control.should_training_stop is True


@pytest.mark.parametrize("event", ["on_step_end", "on_log", "on_sample", "on_save"])
def test_a_callback_stops_the_run_which_is_saved_and_can_go_on(event, tiny_config, tmp_path):
    def stop(state, control, **kwargs):
        control.should_training_stop = state.global_step >= 2

    options = {"max_train_steps": 7, "checkpointing_steps": 2, "validation_steps": 2}
    run = trainer(tiny_config(**options), acting(event, stop))
    run.train()
    assert run.state.global_step == 2 and not run.interrupted
    assert not damage(tmp_path / "run" / "checkpoint-000002")
    assert (tmp_path / "run" / "samples" / "step-000002.png").is_file()
    WGANPipeline.from_pretrained(tmp_path / "run")
    trainer(tiny_config(**options, resume_from_checkpoint="latest")).train()
    trainer(tiny_config(**options | {"output_dir": str(tmp_path / "whole")})).train()
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_run_that_is_stopped_between_intervals_leaves_a_checkpoint_and_a_grid(tiny_config, tmp_path):
    def stop(state, control, **kwargs):
        control.should_training_stop = state.global_step == 3

    seldom = {"max_train_steps": 9, "checkpointing_steps": 100, "validation_steps": 100, "logging_steps": 100}
    trainer(tiny_config(**seldom), acting("on_step_end", stop)).train()
    assert [path.name for path in files.checkpoints(tmp_path / "run")] == ["checkpoint-000003"]
    assert (tmp_path / "run" / "samples" / "step-000003.png").is_file()
    assert rows(tmp_path / "run") == [], "the next report is of all steps, as if nothing had happened"


@pytest.mark.parametrize("event", ["on_step_end", "on_save", "on_log", "on_sample"])
def test_every_flag_is_honoured_whichever_event_sets_it(event, tiny_config, tmp_path):
    def ask(state, control, **kwargs):
        if state.global_step == 5:
            control.should_log = control.should_sample = control.should_save = control.should_evaluate = True

    seldom = {"logging_steps": 100, "checkpointing_steps": 100, "validation_steps": 100, "max_train_steps": 7}
    interval = {"on_step_end": {}, "on_save": "checkpointing_steps", "on_log": "logging_steps"}
    options = seldom | {interval.get(event) or "validation_steps": 5} if event != "on_step_end" else seldom
    recorder = Recorder()
    evaluated = {name: value for name, value in EVALUATED.items() if name != "evaluation_steps"}
    trainer(tiny_config(**options, **evaluated), acting(event, ask), recorder).train()
    asked = {"on_log", "on_sample", "on_save", "on_evaluate"}
    steps = {name: [step for event, step, _ in recorder.events if event == name and 5 <= step < 7] for name in asked}
    if event == "on_log":  # its own report is already written
        assert steps == {"on_log": [5, 6], "on_evaluate": [6], "on_sample": [5], "on_save": [5]}
    else:
        again = {"on_sample": [5, 6] if event == "on_sample" else [5], "on_save": [5, 6] if event == "on_save" else [5]}
        assert steps == {"on_log": [5], "on_evaluate": [5], **again}


@pytest.mark.parametrize("event", EVENTS[1:])
def test_a_callback_that_fails_is_named_and_the_run_is_saved(event, tiny_config, tmp_path):
    def fail(state, control, **kwargs):
        return 1 / 0

    recorder = Recorder()
    run = trainer(tiny_config(max_train_steps=9, checkpointing_steps=3, **EVALUATED), acting(event, fail), recorder)
    with pytest.raises(
        CallbackError, match=rf"Acting\.{event} failed at step \d \(ZeroDivisionError: division"
    ) as caught:
        run.train()
    assert str(tmp_path / "run") in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    step = run.state.global_step
    assert step < 9 or event == "on_train_end"
    assert step == 0 or not damage(tmp_path / "run" / f"checkpoint-{step:06d}")
    WGANPipeline.from_pretrained(tmp_path / "run")
    assert recorder.events[-1][0] == "on_train_end", "the other callbacks are called to the end"
    assert recorder.events[-1][2]["interrupted"] == (event != "on_train_end")


def test_a_callback_that_fails_at_the_beginning_ends_the_run_at_once(tiny_config):
    def fail(state, control, **kwargs):
        raise OSError("no such tracker")

    run = trainer(tiny_config(), acting("on_train_begin", fail))
    with pytest.raises(CallbackError, match=r"Acting\.on_train_begin failed at step 0 \(OSError: no such tracker\)"):
        run.train()
    assert run.state.global_step == 0


@pytest.mark.parametrize("event", EVENTS)
def test_a_callback_that_failed_is_called_again_in_the_next_run_of_the_trainer(event, tiny_config, tmp_path):
    def fail(state, control, **kwargs):
        failures.append(state.global_step)
        if len(failures) == 1:
            raise ValueError("once")

    failures = []
    run = trainer(tiny_config(max_train_steps=4, **EVALUATED), acting(event, fail))
    with pytest.raises(CallbackError, match="once"):
        run.train()
    run.train()
    assert run.state.global_step == 4 and failures[1:]
    assert json.loads((tmp_path / "run" / "training_config.json").read_text())["callbacks"]


@pytest.mark.parametrize("event, method", [("on_evaluate", "evaluate"), ("on_save", "save_checkpoint")])
def test_an_error_of_a_callback_outside_of_a_run_is_raised_at_once(event, method, tiny_config, tmp_path):
    def fail(state, control, **kwargs):
        raise ValueError("no")

    run = trainer(tiny_config(**EVALUATED), acting(event, fail))
    for _ in range(2):
        run.step()
        with pytest.raises(CallbackError, match=rf"Acting\.{event} failed at step \d \(ValueError: no\)$"):
            getattr(run, method)()
    assert event != "on_save" or not damage(tmp_path / "run" / "checkpoint-000002")


class Patience(TrainerCallback):
    def __init__(self):
        self.reports = 0

    def on_log(self, args, state, control, **kwargs):
        self.reports += 1

    def state_dict(self):
        return {"reports": self.reports}

    def load_state_dict(self, state):
        self.reports = state["reports"]


def test_the_state_of_a_callback_is_in_the_checkpoint(tiny_config):
    first, second = Patience(), Patience()
    trainer(tiny_config(), first).train()
    trainer(tiny_config(resume_from_checkpoint="latest", max_train_steps=6), second).train()
    assert (first.reports, second.reports) == (4, 6)
    trainer(tiny_config(resume_from_checkpoint="latest", max_train_steps=7)).train()  # without it


def test_a_class_will_do_and_anything_else_is_refused(tiny_config):
    run = trainer(tiny_config(), Patience)
    run.add_callback(Recorder)
    with pytest.raises(InputError, match=r"callbacks: 3 is of type int, not a TrainerCallback"):
        run.add_callback(3)


def test_an_event_or_a_field_that_there_is_not_is_named(tiny_config):
    class OfEpochs(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            control.should_training_stop = True

    with pytest.raises(
        InputError, match=r"OfEpochs\.on_epoch_end would never be called; the events are on_train_begin, "
    ):
        trainer(tiny_config(), OfEpochs)

    def stop(state, control, **kwargs):
        control.should_stop = True

    with pytest.raises(
        CallbackError,
        match=r"failed at step 1 \(AttributeError: control\.should_stop: must be one of should_training_stop, ",
    ):
        trainer(tiny_config(), acting("on_step_end", stop)).train()


def test_a_control_is_unset_at_first():
    assert not any(vars(TrainerControl()).values())


def test_steps_one_by_one_are_those_of_a_run_and_touch_no_file(tiny_config, tmp_path):
    run = trainer(tiny_config())
    for _ in range(4):
        step_record = run.step()
    assert not (tmp_path / "run").exists()
    assert step_record.critic_loss.ndim == 0 and run.state.progress.images == 64
    checkpoint = run.save_checkpoint()
    assert checkpoint == tmp_path / "run" / "checkpoint-000004" and not damage(checkpoint)
    trainer(tiny_config(output_dir=str(tmp_path / "whole"))).train()
    for name in ("generator", "critic"):
        file = f"checkpoint-000004/{name}/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_first_step_of_a_run_to_be_resumed_goes_on_from_the_checkpoint(tiny_config):
    trainer(tiny_config()).train()
    run = trainer(tiny_config(resume_from_checkpoint="latest", max_train_steps=6))
    run.step()
    assert run.state.global_step == 5


def test_an_iterator_yields_each_step_after_what_is_due(tiny_config, tmp_path):
    run, steps = trainer(tiny_config()), []
    for record in run.iterate():
        steps.append((run.state.global_step, len(rows(tmp_path / "run"))))
        assert torch.isfinite(record.generator_loss)
    assert steps == [(1, 1), (2, 2), (3, 3), (4, 4)]
    WGANPipeline.from_pretrained(tmp_path / "run")


def test_what_a_loop_sets_is_done_after_the_next_step(tiny_config, tmp_path):
    run = trainer(tiny_config())
    for _ in run.iterate():
        run.control.should_training_stop = True
    assert run.state.global_step == 2 and (tmp_path / "run" / "checkpoint-000002").is_dir()
    WGANPipeline.from_pretrained(tmp_path / "run")


def test_an_iterator_that_is_dropped_writes_nothing_more(tiny_config, tmp_path):
    run = trainer(tiny_config())
    steps = run.iterate()
    next(steps)
    steps.close()
    assert not (tmp_path / "run" / files.INDEX).exists()
    run.train()
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]


def test_the_record_names_callbacks_and_held_out_images(tiny_config):
    class Mine(TrainerCallback):
        pass

    run = trainer(tiny_config(), Mine)
    assert run.describe()["callbacks"] == [f"{__name__}:{Mine.__qualname__}"]
    run = trainer(tiny_config(), held_out=tiny_images(16))
    assert run.describe()["held_out"]["class"] == "hf_wgan.data.images:ImageSet"


@pytest.mark.parametrize("name, value", [("callbacks", TrainerCallback), ("record", "x")])
def test_an_argument_of_another_type_is_one_line(name, value, tiny_config):
    with pytest.raises(InputError, match=f"^{name}=.*: must be a"):
        WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), **{"config": tiny_config(), name: value})
    with pytest.raises(InputError, match="config of type dict: must be a TrainingConfig"):
        WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), {"seed": 1})


def test_a_pipeline_saved_before_the_first_step_does_not_stop_the_run(tiny_config, tmp_path):
    run = trainer(tiny_config())
    run.save_pipeline()
    assert (tmp_path / "run" / files.CONFIG).is_file()
    run.train()


def test_evaluate_measures_at_any_time(tiny_config, tmp_path, capsys):
    run = trainer(tiny_config(evaluation_features="pixels", num_evaluation_images=20))
    run.step()
    metrics = run.evaluate()
    assert metrics["frechet_distance"] > 0 and (tmp_path / "run" / "best" / files.INDEX).is_file()
    assert "Resumed" not in capsys.readouterr().err
    assert f"{metrics['frechet_distance']:.4g}, at step 1" in run.evaluations.summary()


def test_the_state_takes_and_gives_everything(tiny_config):
    options = {"use_ema": True, "optimizer": "adam", "lr_scheduler": "linear"}
    one, other = trainer(tiny_config(**options)), trainer(tiny_config(**options))
    for _ in range(3):
        one.step()
    other.state.load_state_dict(one.state.state_dict())
    assert other.state.progress == one.state.progress and other.state.global_step == 3
    for name in ("generator", "critic"):
        for expected, value in zip(one.state.networks[name].parameters(), other.state.networks[name].parameters()):
            assert torch.equal(expected, value)
        rates = [run.state.optimizers[f"{name}_optimizer"].param_groups[0]["lr"] for run in (one, other)]
        assert rates[0] == rates[1] == 5e-5 / 4
    assert all(map(torch.equal, one.state.ema.shadow_params, other.state.ema.shadow_params))


def test_a_learning_rate_that_a_resumed_run_may_change_acts(tiny_config):
    trainer(tiny_config(lr_scheduler="linear", max_train_steps=4, use_ema=True)).train()
    changes = {"critic_learning_rate": 1e-3, "adam_epsilon": 1e-3, "ema_max_decay": 0.5, "max_train_steps": 8}
    run = trainer(
        tiny_config(
            lr_scheduler="linear", use_ema=True, resume_from_checkpoint="latest", allow_config_change=True, **changes
        )
    )
    run.step()
    generator, critic = (optimizer.param_groups[0] for optimizer in run.state.optimizers.values())
    assert (generator["lr"], critic["lr"]) == pytest.approx((5e-5 * 3 / 8, 1e-3 * 3 / 8))
    assert generator["eps"] == 1e-3 and run.state.ema.decay == 0.5


def test_an_average_that_a_resumed_run_begins_is_of_the_loaded_weights(tiny_config):
    trainer(tiny_config()).train()
    run = trainer(tiny_config(use_ema=True, resume_from_checkpoint="latest", allow_config_change=True))
    run.state.load_state_dict({**run.state.state_dict(), "ema": None})
    run.pipeline()
    trainer(
        tiny_config(use_ema=True, resume_from_checkpoint="latest", allow_config_change=True, max_train_steps=5)
    ).train()


def test_another_optimizer_cannot_take_up_the_state_and_says_so(tiny_config):
    trainer(tiny_config()).train()
    run = trainer(tiny_config(optimizer="adam", resume_from_checkpoint="latest", allow_config_change=True))
    with pytest.raises(InputError, match="the generator_optimizer in it is of another kind"):
        run.train()


def test_a_broken_matplotlib_costs_the_picture_and_not_the_model(tiny_config, tmp_path, monkeypatch, capsys):
    def broken(*args):
        assert (tmp_path / "run" / files.INDEX).is_file(), "the model is saved first"
        raise ImportError("libfreetype.so.6: cannot open")

    monkeypatch.setattr(report, "plot_runs", broken)
    trainer(tiny_config()).train()
    WGANPipeline.from_pretrained(tmp_path / "run")
    assert "curves.png was not drawn (ImportError: libfreetype.so.6: cannot open)." in capsys.readouterr().err
    assert "curves.png" not in (tmp_path / "run" / "README.md").read_text()


def agreeing(folder, index, num_processes, port):
    from hf_wgan import TrainingConfig

    join(index, num_processes, port)

    def ask(state, control, **kwargs):  # in one process, and each in another
        control.should_save = index == 0 and state.global_step == 2
        control.should_log = index == 1 and state.global_step == 3
        control.should_training_stop = index == 1 and state.global_step == 5

    seldom = {"logging_steps": 100, "checkpointing_steps": 100, "validation_steps": 100, "max_train_steps": 9}
    config = TrainingConfig(output_dir=folder, train_batch_size=4, n_critic=1, num_validation_images=4, **seldom)
    recorder = Recorder()
    trainer(config, acting("on_step_end", ask), recorder).train()
    events = [(event, step) for event, step, _ in recorder.events if event not in ("on_step_end", "on_sample")]
    assert events == [("on_train_begin", 0), ("on_save", 2), ("on_log", 3), ("on_save", 5), ("on_train_end", 5)], events
    torch.distributed.destroy_process_group()


def test_a_flag_of_one_process_is_one_of_all(tmp_path):
    port = free_port()
    assert ended([start(agreeing, str(tmp_path / "run"), index, 2, port) for index in range(2)]) == [0, 0]
    assert [row["step"] for row in rows(tmp_path / "run")] == [3]


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "adam", "use_ema": True, "lr_scheduler": "linear", "generator_batch_ratio": 2}]
)
def test_a_loaded_state_continues_to_the_bit(options, tiny_config, tmp_path):
    one = trainer(tiny_config(**options))
    for _ in range(2):
        one.step()
    torch.save(one.state.state_dict(), tmp_path / "state.pt")
    other = trainer(tiny_config(**options, output_dir=str(tmp_path / "other")))
    other.state.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [float(value) for value in other.step()] == [float(value) for value in one.step()]
    for name, network in one.state.networks.items():
        loaded = other.state.networks[name].state_dict()
        assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["images", "stream"])
def test_an_earlier_state_continues_to_the_bit_in_place(kind, tiny_config):
    rows = Dataset.from_dict({"image": pictures(24)}, features=Features({"image": Image()}))
    stream = images_of(rows.to_iterable_dataset(), DataConfig(resolution=8, dataloader_num_workers=0))
    dataset = tiny_images(channels=3) if kind == "images" else stream
    run = WGANTrainer(tiny_generator(out_channels=3), tiny_critic(in_channels=3), dataset, tiny_config())
    run.step()
    saved = copy.deepcopy(run.state.state_dict())
    expected = [[float(value) for value in run.step()] for _ in range(3)]
    run.state.load_state_dict(saved)
    assert [[float(value) for value in run.step()] for _ in range(3)] == expected


def test_numbers_of_numpy_in_a_callbacks_state_are_loaded_again(tiny_config):
    trainer(tiny_config(), Remembers(np.float64(0.5))).train()
    callback = Remembers(0)
    trainer(tiny_config(resume_from_checkpoint="latest", max_train_steps=5), callback).train()
    assert callback.value == 0.5


@pytest.mark.parametrize(
    "value", [b"x", bytearray(b"x"), 1j, torch.Size([2, 3]), torch.float16, torch.device("cpu"), {1: {2}, "a": (None,)}]
)
def test_whatever_pytorch_loads_without_code_is_kept(value, tiny_config):
    trainer(tiny_config(), Remembers(value)).train()
    callback = Remembers(0)
    trainer(tiny_config(resume_from_checkpoint="latest", max_train_steps=5), callback).train()
    assert callback.value == value and type(callback.value) is type(value)


def test_a_state_that_no_checkpoint_can_keep_is_one_line_where_it_is_added_and_lost_alone_later(tiny_config, capsys):
    message = r"callback Remembers: its state_dict\(\)\['best'\]\[0\] is of type PosixPath: a checkpoint keeps tensors"
    with pytest.raises(InputError, match=message):
        trainer(tiny_config(), Remembers(Path("x")))
    changes = acting("on_step_end", lambda state, control, **kwargs: setattr(callback, "value", Path("x")))
    callback = Remembers(1)
    trainer(tiny_config(), callback, changes).train()
    assert capsys.readouterr().err.count("is of type PosixPath") == 1
    trainer(tiny_config(resume_from_checkpoint="latest", max_train_steps=5), Remembers(1)).train()


def test_a_control_may_be_set_to_anything_true(tiny_config):
    run = trainer(
        tiny_config(),
        acting("on_step_end", lambda state, control, **_: setattr(control, "should_training_stop", "yes")),
    )
    run.train()
    assert run.state.global_step == 1


def test_a_callback_is_added_once_and_removed_with_its_state(tiny_config):
    callback = Remembers(1)
    run = trainer(tiny_config(), callback)
    with pytest.raises(InputError, match="Remembers is there already; add another instance"):
        run.add_callback(callback)
    run.remove_callback(callback)
    assert not run.state.extras
    for absent in (callback, Remembers, "ProgressCallback"):
        with pytest.raises(InputError, match="is none of this run, which has IntervalCallback, ProgressCallback"):
            run.remove_callback(absent)


def test_wrong_arguments_of_the_methods_are_one_line(tiny_config):
    run = trainer(tiny_config())
    for number in (0, -1, 2.5, "x"):
        with pytest.raises(InputError, match=r"^num_batches=.*: must be a whole number at least 1"):
            run.pipeline(number)
    with pytest.raises(InputError, match="pipeline of type str: must be a WGANPipeline"):
        run.save_pipeline("x")
    with pytest.raises(InputError, match=r"^state: lacks critic"):
        run.state.load_state_dict({})
    with pytest.raises(InputError, match=r"^held_out=5: must be an ImageSet"):
        trainer(tiny_config(overwrite_output_dir=True), held_out=5)
    with pytest.raises(InputError, match=r"^record=.*: must be what JSON can hold"):
        trainer(tiny_config(overwrite_output_dir=True), record={"command": object()})
    with pytest.raises(InputError, match=r"^record=.*: must be what JSON can hold"):
        trainer(tiny_config(overwrite_output_dir=True), record={"score": float("nan")})
    for name in trainer(tiny_config(overwrite_output_dir=True)).describe():
        with pytest.raises(InputError, match=f"^record: '{name}' is an entry that the run writes itself"):
            trainer(tiny_config(overwrite_output_dir=True), record={"note": 1, name: "mine"})


def test_options_that_an_object_replaces_are_said(tiny_config, capsys):
    config = tiny_config(lipschitz="gp", gradient_penalty_weight=5.0, augmentation="color")
    trainer(config, constraint=WeightClipping(), augmentation=torch.sin)
    said = capsys.readouterr().err
    assert "The constraint that was passed takes the place of lipschitz='gp', gradient_penalty_weight=5.0." in said
    assert "The augmentation that was passed takes the place of augmentation='color'." in said
    trainer(tiny_config(), constraint=WeightClipping())
    assert "takes the place" not in capsys.readouterr().err
