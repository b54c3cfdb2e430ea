"""The folder of a run: what may be in it before, what a new run replaces, and who may write to it."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import tiny_critic, tiny_generator, tiny_images
from processes import ended, start_run

from hf_wgan import InputError, TrainerCallback, WGANTrainer
from hf_wgan.cli.evaluate import evaluate_digits
from hf_wgan.hub.publish import Push, push_folder
from hf_wgan.metrics import digits
from hf_wgan.training import run_folder, trackers
from hf_wgan.training.run_folder import is_run
from hf_wgan.utils import files
from hf_wgan.utils.errors import CallbackError

TENSORBOARD = {"report_to": "tensorboard"}


def train(config, **options):
    run = WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config, **options)
    run.train()
    return run


def content(folder):
    """Every file of a folder but the lock."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != files.LOCK]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of four steps, to be copied."""
    from hf_wgan import TrainingConfig

    folder = tmp_path_factory.mktemp("finished") / "run"
    small = {"train_batch_size": 8, "logging_steps": 1, "n_critic": 2, "num_validation_images": 4}
    train(TrainingConfig(str(folder), max_train_steps=4, validation_steps=1, checkpointing_steps=2, **small))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def write(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")


def test_others_may_read_every_file_of_a_run_as_they_may_a_new_file(finished, tmp_path):
    (tmp_path / "new").touch()
    files_of_run = [path for path in finished.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files_of_run)
    assert {path.stat().st_mode for path in files_of_run} == {(tmp_path / "new").stat().st_mode}


MINE = [
    *("README.md", "notes.txt", "logs/a.log", "logs/hf_wgan.txt", "samples/mine.png", "samples/step-best.png"),
    *("generator/model.py", "generator/notes/a.txt", "best/a.txt", "checkpoint-2024-backup/weights.bin"),
    *("checkpoint-000007/weights.bin", "checkpoint-old/manifest.json", "set-aside-checkpoint-a/x"),
]


NO_RECORDS = [
    *(None, "", "[]", "{}", "\xff", '{"training": {}, "dataset": {}}', '{"versions": "hf_wgan"}'),
    '{"versions": {"hf_wgan": "1"}, "training": [], "dataset": {}}',
]


@pytest.mark.parametrize("record", NO_RECORDS)
def test_a_folder_without_the_record_of_a_run_is_never_replaced(record, tiny_config, tmp_path):
    folder = tmp_path / "run"
    write(folder, MINE)
    if record is not None:
        (folder / files.CONFIG).write_text(record)
    before = content(folder)
    with pytest.raises(InputError, match=r"output_dir='.*run': is not empty and holds no run .*name another folder"):
        train(tiny_config(overwrite_output_dir=True))
    assert content(folder) == before


def test_overwriting_a_run_removes_its_own_files_only(run, tiny_config):
    train(
        tiny_config(
            overwrite_output_dir=True,
            evaluation_steps=2,
            evaluation_features="pixels",
            num_evaluation_images=16,
            max_train_steps=6,
            validation_steps=1,
            **TENSORBOARD,
        )
    )
    assert is_run(run / files.BEST)
    first = content(run)
    mine = [name for name in MINE if name != files.CARD]
    write(run, mine)
    card = run / files.CARD
    card.write_text(card.read_text().replace("---\n\n", "---\n\nMy words above.\n\n", 1) + "\nMy words below.\n")
    train(tiny_config(overwrite_output_dir=True, max_train_steps=2, validation_steps=2, seed=1))
    after = content(run)
    mine.remove("checkpoint-000007/weights.bin")  # is set aside, as the checkpoint of a later step
    mine.append("set-aside-checkpoint-000007/weights.bin")
    assert {name: after[name] for name in mine} == dict.fromkeys(mine, b"mine")
    assert "My words above." in card.read_text() and "My words below." in card.read_text()
    assert "in 2 generator updates" in card.read_text() or "step 2" in card.read_text()
    written = set(after) - set(mine)
    assert not {name for name in written if name.startswith(("logs/", "best/"))}, "the new run has none"
    unchanged = {name for name in written & set(first) if after[name] == first[name]}
    assert all(name.endswith(("config.json", ".py", files.INDEX)) for name in unchanged), unchanged
    assert [path.name for path in files.checkpoints(run)] == ["checkpoint-000002"]


def test_checkpoints_that_a_person_put_something_into_are_set_aside_and_not_removed(run, tiny_config):
    write(run, ["checkpoint-000002/notes.txt", "checkpoint-000001/weights.bin", "set-aside-checkpoint-000006/mine"])
    train(tiny_config(max_train_steps=8, checkpoints_total_limit=1, resume_from_checkpoint="latest"))
    assert [path.name for path in files.checkpoints(run)] == ["checkpoint-000008"]
    train(tiny_config(max_train_steps=8, resume_from_checkpoint=str(run / "set-aside-checkpoint-000002")))
    kept = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.read_bytes() == b"mine"}
    assert kept == {
        f"set-aside-checkpoint-{name}" for name in ("000002/notes.txt", "000001/weights.bin", "000006/mine")
    }


def test_nothing_is_removed_behind_a_link(run, tiny_config, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("generator", "samples", "checkpoint-000002"):
        shutil.move(run / name, elsewhere / name)
        os.symlink(elsewhere / name, run / name)
    manifest = json.loads((run / "checkpoint-000004" / files.MANIFEST).read_text())
    manifest["../../elsewhere/notes"] = manifest["progress.json"]
    (run / "checkpoint-000004" / files.MANIFEST).write_text(json.dumps(manifest))
    write(elsewhere, ["notes"])
    removed = [path.resolve() for path in run_folder.replaced_files(tiny_config(overwrite_output_dir=True))]
    assert removed and not [path for path in removed if path.is_relative_to(elsewhere)]


def test_a_card_without_its_marks_is_all_a_persons_and_stays(run, tiny_config):
    (run / files.CARD).write_text("all of this is mine\n")
    train(tiny_config(overwrite_output_dir=True, max_train_steps=2))
    assert (run / files.CARD).read_text().endswith("all of this is mine\n")


class Failing(TrainerCallback):
    def on_train_begin(self, *args, **kwargs):
        raise ValueError("not today")


def no_tracker(monkeypatch):
    def fail(self, *args):
        raise ValueError("not logged in")

    monkeypatch.setattr(trackers.Accelerator, "init_trackers", fail)
    return TENSORBOARD, {}


def no_features(monkeypatch):
    settings = {"evaluation_steps": 2, "evaluation_features": "classifier:nowhere", "num_evaluation_images": 16}
    return settings, {}


START_FAILS = {
    "a tracker": (no_tracker, InputError),
    "a callback": (lambda monkeypatch: ({}, {"callbacks": [Failing]}), CallbackError),
    "the feature extractor": (no_features, InputError),
    "the batch size": (lambda monkeypatch: ({"train_batch_size": 1000}, {}), InputError),
    "the precision": (lambda monkeypatch: ({"mixed_precision": "fp16"}, {}), InputError),
}


@pytest.mark.parametrize("what", START_FAILS)
def test_a_finished_run_outlives_a_run_that_cannot_start(what, run, tiny_config, monkeypatch):
    prepare, error = START_FAILS[what]
    settings, options = prepare(monkeypatch)
    before = content(run)
    with pytest.raises(error):
        train(tiny_config(overwrite_output_dir=True, seed=1, **settings), **options)
    assert content(run) == before


def test_a_run_that_cannot_start_leaves_nothing_in_the_way_of_the_same_command(tiny_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(InputError, match="not logged in"):
        settings, _ = no_tracker(patch)
        train(tiny_config(**settings))
    assert content(tmp_path / "run") == {}
    train(tiny_config(**TENSORBOARD))


def test_a_checkpoint_of_another_run_does_not_replace_the_run_in_the_folder_unasked(run, tiny_config, tmp_path):
    train(tiny_config(output_dir=str(tmp_path / "other"), max_train_steps=2))
    before, elsewhere = content(run), {"resume_from_checkpoint": str(tmp_path / "other" / "checkpoint-000002")}
    with pytest.raises(InputError, match=r"output_dir='.*run': is not empty; .*--overwrite_output_dir"):
        train(tiny_config(**elsewhere))
    assert content(run) == before
    train(tiny_config(overwrite_output_dir=True, max_train_steps=3, **elsewhere))
    assert [row["step"] for row in map(json.loads, (run / files.METRICS).read_text().splitlines())] == [1, 2, 3]
    assert [path.name for path in files.checkpoints(run)] == ["checkpoint-000003"]
    train(tiny_config(output_dir=str(tmp_path / "new"), max_train_steps=3, **elsewhere))
    assert is_run(tmp_path / "new")


# The lock.


@contextmanager
def locked_by_another_process(folder):
    """Another process holds the lock until it is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with files.locked(folder):
                os.write(writing, b".")
                signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reading, 1) == b"."
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


IN_USE = r"run': another process trains in this folder or writes to it \(it holds .*\.lock, which is free once"


def test_a_folder_in_which_another_process_works_is_left_alone_until_that_process_dies(run, tiny_config, monkeypatch):
    before = content(run)
    starts = [{"overwrite_output_dir": True}, {"resume_from_checkpoint": "latest"}]
    with locked_by_another_process(run):
        for start in starts:
            with pytest.raises(InputError, match=IN_USE):
                train(tiny_config(max_train_steps=6, **start))
        with pytest.raises(InputError, match=IN_USE):
            push_folder(run, Push("me/model"))
    assert content(run) == before
    for start in starts:  # the process was killed, and nobody had to remove its lock
        train(tiny_config(max_train_steps=6, **start))


def test_a_folder_that_is_locked_before_its_run_has_begun_is_left_alone(tiny_config, tmp_path):
    (tmp_path / "run").mkdir()
    with locked_by_another_process(tmp_path / "run"), pytest.raises(InputError, match=IN_USE):
        train(tiny_config())
    assert content(tmp_path / "run") == {}


def test_a_run_that_another_process_has_finished_meanwhile_is_not_replaced(finished, tiny_config, tmp_path):
    late = WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config())
    shutil.copytree(finished, tmp_path / "run")
    before = content(tmp_path / "run")
    with pytest.raises(InputError, match="is not empty"):
        late.train()
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["", "best"])
def test_figures_of_a_run_that_changes_are_shown_and_not_recorded(name, run, monkeypatch, capsys):
    report = digits.DigitReport(*[0.5] * len(digits.DigitReport.__dataclass_fields__))
    monkeypatch.setattr(digits, "evaluate", lambda *args: report)
    if name:
        shutil.copytree(run, run / name, ignore=shutil.ignore_patterns("checkpoint*"))
    before = content(run)
    with locked_by_another_process(run):
        assert evaluate_digits([str(run / name)]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) and "shown and not recorded" in shown.err
    assert content(run) == before
    assert evaluate_digits([str(run / name)]) == 0
    assert (run / name / files.EVALUATION).is_file()


def test_a_process_may_hold_the_lock_twice_and_threads_share_it(tmp_path):
    with files.locked(tmp_path), files.locked(tmp_path):
        pass
    with locked_by_another_process(tmp_path), pytest.raises(InputError):
        files.locked(tmp_path).__enter__()


def test_a_disk_without_locks_is_used_without(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files.FileLock, "acquire", fail)
    with files.locked(tmp_path):
        pass


def test_of_several_processes_all_say_that_the_folder_is_in_use(run, tmp_path):
    with locked_by_another_process(run):
        codes = ended(start_run(run, ["--train_batch_size", "4", "--overwrite_output_dir"], num_processes=2))
    assert codes == [2, 2]
    (line,) = [line for line in Path(f"{run}.log").read_text().splitlines() if "error" in line]
    assert "another process trains in this folder" in line


def test_the_lock_is_held_until_the_run_has_ended_and_no_longer(tiny_config, tmp_path):
    held = []

    class Looking(TrainerCallback):
        def look(self, *args, **kwargs):
            child = os.fork()
            if not child:
                try:
                    with files.locked(tmp_path / "run"):
                        os._exit(0)
                finally:
                    os._exit(1)
            held.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

        on_train_begin = on_step_end = on_train_end = look

    train(tiny_config(), callbacks=[Looking])
    assert set(held) == {1} and len(held) == 6
    Looking().look()
    assert held[-1] == 0


def test_a_run_killed_before_it_began_begins_again_whatever_its_trackers_and_callbacks_left(tiny_config, tmp_path):
    class Leaves(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            (tmp_path / "run" / "logs").mkdir()
            (tmp_path / "run" / "logs" / "events").touch()
            if raises:
                raise SystemExit  # as a kill, but for what is written meanwhile

    raises = True
    with pytest.raises(SystemExit):
        train(tiny_config(), callbacks=[Leaves()])
    (tmp_path / "run" / "logs" / "events").rename(tmp_path / "run" / "events")
    (tmp_path / "run" / "logs").rmdir()
    raises = False
    train(tiny_config(resume_from_checkpoint="latest"), callbacks=[Leaves()])
    assert (tmp_path / "run" / "events").is_file() and not (tmp_path / "run" / files.STARTING).exists()


def test_a_run_that_cannot_begin_leaves_an_empty_folder_empty(tiny_config, tmp_path):
    class Fails(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            raise ValueError

    with pytest.raises(CallbackError):
        train(tiny_config(), callbacks=[Fails()])
    assert not {path.name for path in (tmp_path / "run").iterdir()} - {files.LOCK}


def test_a_run_beside_a_marker_of_one_that_has_not_begun_is_not_replaced(tiny_config, tmp_path):
    train(tiny_config())
    (tmp_path / "run" / files.STARTING).touch()
    with pytest.raises(InputError, match="is not empty"):
        train(tiny_config())


def test_a_run_where_a_checkpoint_should_be_is_named_with_its_newest(finished, tiny_config):
    newest = files.checkpoints(finished)[-1]
    with pytest.raises(InputError, match=f"is the folder of a run; name a checkpoint in it, such as {newest}, or"):
        train(tiny_config(resume_from_checkpoint=str(finished)))
    train(tiny_config(resume_from_checkpoint=str(newest), max_train_steps=5))
