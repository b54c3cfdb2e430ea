"""The best model of a run: which one is kept, and that what a run says of it is true of the folder."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import tiny_critic, tiny_generator, tiny_images

from hf_wgan import ImageSet, TrainerCallback, WGANPipeline, WGANTrainer
from hf_wgan.hub.card import record_evaluation
from hf_wgan.metrics.evaluate import Evaluation
from hf_wgan.training.best import read_best
from hf_wgan.utils import files
from hf_wgan.utils.errors import NotFiniteError

EVALUATED = {"evaluation_steps": 1, "evaluation_features": "pixels", "num_evaluation_images": 20}
CHECKPOINTS = {"checkpointing_steps": 1, "checkpoints_total_limit": None}
OTHER_LEARNING_RATE = {"generator_learning_rate": 0.5, "allow_config_change": True}


@pytest.fixture
def train(monkeypatch, tiny_config):
    """A function that trains with options; its evaluations have the distances that it is called with, in order."""

    def call(distances, held_out=None, callbacks=None, **options):
        scores = iter(distances)

        def measured(pipeline, *args, **settings):
            distance = next(scores)
            metrics = {"frechet_distance": distance, "recall": 1 / distance}
            return Evaluation(metrics, {}, {"features": "pixels", "num_images": settings["num_images"]})

        monkeypatch.setattr("hf_wgan.training.evaluation.evaluate", measured)
        config = tiny_config(**{**EVALUATED, **CHECKPOINTS, "max_train_steps": len(distances), **options})
        networks = tiny_generator(), tiny_critic()
        run = WGANTrainer(*networks, tiny_images(), config, held_out=held_out, callbacks=callbacks)
        run.train()
        return run

    return call


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def resumed(step, num_steps, run):
    return {"resume_from_checkpoint": str(run / f"checkpoint-{step:06d}"), "max_train_steps": num_steps}


def kept(folder):
    """The step and the value of the model in a folder, by its record, once its figures and its weights agree."""
    best = read_best(folder)
    figures = json.loads((folder / files.EVALUATION).read_text())
    (value,) = (row["metric_value"] for row in figures if row["metric_type"] == best.metric)
    assert {row["settings"]["step"] for row in figures} == {best.step} and value == round(best.value, 4)
    WGANPipeline.from_pretrained(folder)
    return best.step, best.value


def aside(run):
    return sorted(path.name for path in run.glob("set-aside-best*"))


def last_said(capsys):
    """What the newest run said of its best model, and of folders that it renamed."""
    lines = capsys.readouterr().err.splitlines()
    (of_best,) = (line for line in lines if "Evaluation took" in line)
    return of_best.partition(" Evaluation took")[0], [line for line in lines if line.startswith("Renamed")]


class Kept(TrainerCallback):
    def __init__(self, run):
        self.run, self.steps = run, []

    def on_evaluate(self, *args, **kwargs):
        self.steps.append(kept(self.run / "best")[0])


@pytest.mark.parametrize(("name", "steps"), [("frechet_distance", [1, 2, 2, 2, 5, 5]), ("recall", [1, 2, 2, 2, 5, 5])])
def test_the_best_is_the_smallest_distance_or_the_largest_share(name, steps, train, run, capsys):
    callback = Kept(run)
    train([3.0, 2.0, 2.0, 5.0, 1.0, 4.0], callbacks=[callback], metric_for_best_model=name)
    assert callback.steps == steps
    label = {"frechet_distance": "Fréchet distance", "recall": "Recall"}[name]
    assert last_said(capsys) == (f"Best {label}: 1, at step 5, kept in {run / 'best'}.", [])
    assert not aside(run) and not list(run.glob(".best*")), "what was replaced is removed"
    assert "# best\n" in (run / "best" / files.CARD).read_text()


def test_a_run_that_goes_back_sets_the_best_model_of_its_other_future_aside(train, run, capsys):
    train([5.0, 3.0, 4.0, 4.0, 1.0, 4.0])
    first = (run / "best" / "generator" / "diffusion_pytorch_model.safetensors").read_bytes()
    capsys.readouterr()
    train([6.0, 4.5], **resumed(4, 6, run), **OTHER_LEARNING_RATE)
    of_best, renamed = last_said(capsys)
    assert kept(run / "best") == (6, 4.5)
    assert of_best == (
        f"Fréchet distance: 4.5, at step 6, kept in {run / 'best'}; the model of step 2 had 3 and is not kept."
    )
    old = run / "set-aside-best-000005"
    assert f"Renamed, as the run resumes from an earlier step: {old}" in renamed
    assert kept(old) == (5, 1.0)
    assert (old / "generator" / "diffusion_pytorch_model.safetensors").read_bytes() == first


def test_a_best_model_of_before_the_checkpoint_stays_when_a_run_goes_back(train, run, capsys):
    train([5.0, 1.0, 4.0, 4.0])
    train([6.0, 4.5], **resumed(2, 4, run), **OTHER_LEARNING_RATE)
    assert kept(run / "best") == (2, 1.0) and not aside(run)


def test_the_line_about_a_run_that_only_finishes_again_is_of_the_folder(train, run, capsys):
    train([5.0, 1.0, 4.0])
    capsys.readouterr()
    train([], resume_from_checkpoint="latest", max_train_steps=3, metric_for_best_model="recall")
    assert last_said(capsys) == (f"Best Fréchet distance: 1, at step 2, kept in {run / 'best'}.", [])


OTHERS = {
    "another metric": {"metric_for_best_model": "recall"},
    "another number of images": {"num_evaluation_images": 16},
    "another compared set": {"held_out": ImageSet(255 - tiny_images().images, name="others")},
    "other features": {"evaluation_features": "self-supervised"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_values_of_another_scale_are_not_compared(other, train, run, capsys, short_training):
    train([5.0, 1.0, 4.0])
    capsys.readouterr()
    options = {**OTHERS[other], "allow_config_change": True}
    train([70.0, 90.0], resume_from_checkpoint="latest", max_train_steps=5, **options)
    of_best, renamed = last_said(capsys)
    if other == "another metric":
        assert kept(run / "best") == (4, 1 / 70)
        assert of_best == (
            f"Recall: 0.01429, at step 4, kept in {run / 'best'}; the model of step 2 had 1 and is not kept."
        )
    else:
        assert kept(run / "best") == (4, 70.0)
        assert of_best == f"Best Fréchet distance: 70, at step 4, kept in {run / 'best'}."
    old = run / "set-aside-best-000002"
    assert renamed == [f"Renamed, as it was chosen by another metric or by other settings: {old}"]
    assert kept(old) == (2, 1.0)
    rows = [json.loads(line) for line in (run / files.METRICS).read_text().splitlines()]
    assert len({row["evaluation_settings"] for row in rows}) == (1 if other == "another metric" else 2)


def test_a_best_model_that_was_removed_is_replaced_by_the_next_and_not_claimed(train, run, capsys):
    train([5.0, 1.0, 4.0])
    shutil.rmtree(run / "best")
    capsys.readouterr()
    train([], resume_from_checkpoint="latest", max_train_steps=3)
    assert last_said(capsys) == (f"There is no best model in {run / 'best'}.", [])
    train([3.0, 6.0], resume_from_checkpoint="latest", max_train_steps=5)
    assert kept(run / "best") == (4, 3.0)
    assert "kept in" in last_said(capsys)[0]


def test_figures_that_a_person_measured_later_do_not_hide_what_the_model_was_chosen_by(train, run):
    train([5.0, 1.0, 4.0])
    figure = {"metric_type": "frechet_distance", "metric_name": "Fréchet distance", "metric_value": 99.0}
    record_evaluation(run / "best", [{**figure, "settings": {"features": "pixels", "num_images": 10_000}}])
    train([3.0], resume_from_checkpoint="latest", max_train_steps=4)
    assert read_best(run / "best").step == 2 and not aside(run)


def write_file(best):
    (best / "notes.txt").write_text("mine")


def write_into_card(best):
    card = best / files.CARD
    card.write_text(card.read_text() + "\nmine\n")


def make_link(best):
    elsewhere = best.parent.parent / "elsewhere"
    best.rename(elsewhere)
    (elsewhere / "notes.txt").write_text("mine")
    best.symlink_to(elsewhere)


@pytest.mark.parametrize("change", [write_file, write_into_card, make_link])
def test_a_best_model_that_a_person_changed_is_set_aside_when_a_better_one_comes(change, train, run, capsys):
    train([5.0, 3.0])
    change(run / "best")
    for step in (3, 4):
        train([1 / step], resume_from_checkpoint="latest", max_train_steps=step)
    assert kept(run / "best") == (4, 0.25)
    assert aside(run) == ["set-aside-best-000002"] and kept(run / "set-aside-best-000002") == (2, 3.0)
    texts = [path.read_text() for path in (run / "set-aside-best-000002").iterdir() if path.suffix in (".txt", ".md")]
    assert any("mine" in text for text in texts)
    assert "Renamed, as it holds more than the run wrote" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "file", "damaged record"])
def test_what_is_no_best_model_of_a_run_is_set_aside_and_never_removed(kind, train, run, capsys):
    train([5.0], max_train_steps=1)
    if kind == "damaged record":
        (run / "best" / files.BEST_RECORD).write_text('{"step": 1')
        (run / "best" / "notes.txt").write_text("mine")
    else:
        shutil.rmtree(run / "best")
    if kind == "file":
        (run / "best").write_text("mine")
    if kind == "folder":
        (run / "best").mkdir()
        (run / "best" / "notes.txt").write_text("mine")
    train([9.0], resume_from_checkpoint="latest", max_train_steps=2)
    assert kept(run / "best") == (2, 9.0)
    old = run / "set-aside-best"
    assert (old if kind == "file" else old / "notes.txt").read_text() == "mine"
    assert f"Renamed, as it has no record of what it is: {old}" in capsys.readouterr().err


def test_only_a_copy_takes_the_place_of_a_folder_that_was_set_aside(train, run):
    train([5.0, 3.0])
    write_file(run / "best")
    for values in ([2.0], [2.0], [3.0], [4.0]):
        train(values, **resumed(1, 2, run), **OTHER_LEARNING_RATE)
    assert aside(run) == ["set-aside-best-000002", "set-aside-best-000002-2", "set-aside-best-000002-3"]
    assert (run / "set-aside-best-000002" / "notes.txt").read_text() == "mine"
    assert [kept(run / f"set-aside-best-000002-{number}") for number in (2, 3)] == [(2, 2.0), (2, 3.0)]


class Killed(TrainerCallback):
    """Ends the run after an evaluation, before its row is written, as a kill would."""

    def __init__(self, step):
        self.step = step

    def on_evaluate(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise SystemExit


def test_a_run_killed_between_its_best_model_and_the_row_of_it_ends_as_one_never_killed(train, run, tmp_path, capsys):
    values = [5.0, 4.0, 1.0, 3.0]
    train(values, output_dir=str(tmp_path / "whole"))
    expected = last_said(capsys)[0].replace("whole", "run")
    with pytest.raises(SystemExit):
        train(values, callbacks=[Killed(3)], checkpointing_steps=2)
    assert kept(run / "best") == (3, 1.0) and len((run / files.METRICS).read_text().splitlines()) == 2
    train(values[2:], resume_from_checkpoint="latest", max_train_steps=4)
    assert kept(run / "best") == (3, 1.0)
    assert not aside(run), "the same model came again"
    assert last_said(capsys)[0] == expected


def test_a_best_model_is_put_back_where_a_replacement_was_cut_off(train, run, monkeypatch):
    train([5.0, 4.0])

    rename = Path.rename

    def killed(path, target):
        if path.parent.name == files.NEW_BEST:
            raise SystemExit
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Path, "rename", killed)
        train([1.0], resume_from_checkpoint="latest", max_train_steps=3)
    assert not (run / "best").exists() and (run / files.OLD_BEST).is_dir()
    train([9.0], resume_from_checkpoint="latest", max_train_steps=3)
    assert kept(run / "best") == (2, 4.0) and not list(run.glob(".best*"))


def test_a_restored_run_sets_the_best_model_of_the_steps_it_went_back_over_aside(train, run, monkeypatch, capsys):
    step, failures = WGANTrainer.step, [NotFiniteError("real_score is nan")]

    def failing(trainer):
        if trainer.state.global_step == 3 and failures:
            raise failures.pop()
        return step(trainer)

    monkeypatch.setattr(WGANTrainer, "step", failing)
    train([5.0, 4.0, 1.0, 2.0, 3.0], checkpointing_steps=2, max_train_steps=4, on_nan="restore")
    assert kept(run / "best") == (3, 2.0) and kept(run / "set-aside-best-000003") == (3, 1.0)
    old = run / "set-aside-best-000003"
    assert last_said(capsys)[1] == [f"Renamed, as the run returns to an earlier step: {old}"]


def test_a_new_run_in_the_folder_removes_what_was_set_aside_and_keeps_what_a_person_wrote(train, run):
    train([5.0, 3.0])
    for _ in range(2):
        train([4.0], **resumed(1, 2, run), **OTHER_LEARNING_RATE)
    write_file(run / "set-aside-best-000002")
    write_into_card(run / "best")
    train([9.0], max_train_steps=1, overwrite_output_dir=True)
    assert kept(run / "best") == (1, 9.0)
    assert [path.name for path in (run / "set-aside-best-000002").rglob("*")] == ["notes.txt"]
    assert "mine" in (run / "set-aside-best" / files.CARD).read_text()
