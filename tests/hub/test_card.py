import errno
import json
import os
import re
import resource
import shutil
import time
from pathlib import Path

import pytest
import yaml
from conftest import pictures, tiny_critic, tiny_generator, tiny_images
from datasets import Dataset
from huggingface_hub import EvalResult, ModelCard

from hf_wgan import InputError, RunConfig, TrainingConfig, WGANPipeline, WGANTrainer, build_trainer, load_images
from hf_wgan.algorithm.lipschitz import WeightClipping
from hf_wgan.data import DataConfig, images_of
from hf_wgan.hub.card import make_card, merge, record_evaluation, write_card
from hf_wgan.utils.options import has_effect, option_fields


@pytest.fixture
def run(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_wgan.training.report.push_folder", lambda folder, push: push.repo_id)
    monkeypatch.setattr("hf_wgan.training.report.problem_with", lambda push: "")
    config = tiny_config(clip_value=0.0123, license="cc-by-4.0", push_to_hub=True, hub_token="hf_secret")
    record = {"command": "accelerate launch scripts/train_wgan.py", "base_model": "me/older"}
    WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config, record=record).train()
    return tmp_path / "run"


def test_the_card_of_a_run_holds_its_settings_figures_and_pictures(run):
    card = ModelCard.load(run / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "unconditional-image-generation"
    assert data["license"] == "cc-by-4.0"
    assert data["base_model"] == "me/older"
    assert "hf_wgan" in data["tags"]
    text = card.content
    assert "| clip_value | 0.0123 |" in text
    assert "8×8 pixels" in " ".join(text.split())
    assert "4 generator updates" in text
    assert "(samples/step-000004.png)" in text and "(curves.png)" in text
    assert "accelerate launch scripts/train_wgan.py" in text
    assert "Intended use and limits" in text
    assert f"torch {json.loads((run / 'training_config.json').read_text())['versions']['torch']}" in text
    assert "{{" not in text and "{%" not in text and "None" not in text


def listed(folder):
    """Return the options of training and of the images that the table of a card lists."""
    rows = re.findall(r"^\| (?:data: )?(\w+) \| .* \|$", (folder / "README.md").read_text(), re.MULTILINE)
    names = {field.name for part in (TrainingConfig, DataConfig) for field in option_fields(part)}
    return names & set(rows)


@pytest.mark.parametrize("options", [{}, {"lipschitz": "gp", "critic_norm_type": "layer", "optimizer": "adam"}])
def test_a_card_lists_no_option_that_had_no_effect(options, tmp_path):
    tiny = {"resolution": 8, "generator_width": 4, "critic_width": 4, "train_batch_size": 4, "num_validation_images": 4}
    once = {"max_train_steps": 1, "n_critic": 1, "mixed_precision": "no", "output_dir": str(tmp_path / "run")}
    config = RunConfig.resolve(**tiny, **once, **options)
    build_trainer(config).train()
    names = listed(tmp_path / "run")
    for part in (config.training, config.data):
        fields = {field.name: field for field in option_fields(type(part))}
        assert not [name for name in names & fields.keys() if not has_effect(fields[name], vars(part))]
    acting = {"gradient_penalty_weight", "penalty_interval", "adam_beta1"} if options else {"clip_value"}
    assert acting | {"seed", "resolution", "adam_epsilon"} <= names
    assert not names & {"evaluation_features", "num_evaluation_images", "metric_for_best_model"}
    repeated = RunConfig.resolve(tmp_path / "run" / "training_config.json")
    assert (repeated.training, repeated.data) == (config.training, config.data)


def test_the_card_of_a_run_whose_length_is_a_time_names_no_number_of_steps(tmp_path):
    tiny = {"resolution": 8, "generator_width": 4, "critic_width": 4, "train_batch_size": 4, "num_validation_images": 4}
    options = {**tiny, "n_critic": 1, "logging_steps": 1, "mixed_precision": "no", "output_dir": str(tmp_path / "run")}
    build_trainer(RunConfig.resolve(max_train_minutes=1e-6, **options)).train()
    assert {"max_train_minutes", "max_train_steps"} & listed(tmp_path / "run") == {"max_train_minutes"}


def test_options_that_an_object_may_use_stay_on_the_card(tiny_config, tmp_path):
    config = tiny_config(penalty_interval=3, evaluation_steps=2, evaluation_features="pixels", num_evaluation_images=20)
    networks = tiny_generator(), tiny_critic()
    WGANTrainer(*networks, tiny_images(), config, constraint=WeightClipping(0.01)).train()
    assert {"penalty_interval", "evaluation_features", "metric_for_best_model"} <= listed(tmp_path / "run")


def test_a_card_lists_how_images_of_a_dataset_in_python_were_prepared(tiny_config, tmp_path):
    dataset = Dataset.from_dict({"image": pictures(24, "RGBA")})
    images = images_of(dataset, DataConfig(resolution=8, channels=1, background="black", image_column="image"))
    WGANTrainer(tiny_generator(), tiny_critic(), images, tiny_config()).train()
    names = listed(tmp_path / "run")
    assert {"background", "center_crop", "image_column", "dataset_split"} <= names and "clip_value" in names
    assert not names & {"gradient_penalty_weight", "evaluation_features"}


def test_bytes_of_file_names_that_are_no_utf8_are_question_marks(tiny_config, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for number, picture in enumerate(pictures(8, "L")):
        picture.save(folder / f"{number}.png")
    images = load_images(DataConfig(train_data_dir=str(folder), resolution=8))
    record = {"command": f"hf-wgan train --train_data_dir {folder}"}
    WGANTrainer(tiny_generator(), tiny_critic(), images, tiny_config(), record=record).train()
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.data.eval_results[0].dataset_name == "caf?"
    assert "hf-wgan train --train_data_dir 'caf?'" in card.content


def test_no_file_of_a_run_holds_the_token(run):
    for path in run.rglob("*"):
        assert not path.is_file() or b"hf_secret" not in path.read_bytes()


def test_the_figures_are_results_that_the_hub_understands(run):
    evaluation = {"metric_type": "fid", "metric_name": "Fréchet distance", "metric_value": 12.5, "settings": {"n": 10}}
    (run / "evaluation.json").write_text(json.dumps([evaluation]))
    (run / "training_config.json").write_text(
        (run / "training_config.json").read_text().replace('"hub_id": null', '"hub_id": "me/photos"')
    )
    write_card(run)
    card = ModelCard.load(run / "README.md")
    assert card.data.datasets == ["me/photos"]
    results = card.data.eval_results
    assert all(isinstance(result, EvalResult) for result in results)
    assert [(each.metric_type, each.dataset_type) for each in results] == [
        ("fid", "me/photos"),
        ("wasserstein_estimate", "me/photos"),
    ]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert results[1].metric_value == pytest.approx(last["wasserstein_estimate"], abs=1e-6)
    assert "| Fréchet distance | 12.5 | – |" in card.content


def test_the_usage_blocks_of_the_card_run(run, monkeypatch):
    blocks = [part.split("```")[0] for part in (run / "README.md").read_text().split("```python\n")[1:]]
    assert len(blocks) == 2
    monkeypatch.chdir(run.parent)
    for code in blocks:
        names = {}
        exec(code, names)
        assert len(names["images"]) == 16


def test_a_pipeline_without_a_run_has_a_card_too(tmp_path):
    WGANPipeline(tiny_generator()).save_pretrained(tmp_path / "bare")
    write_card(tmp_path / "bare")
    card = ModelCard.load(tmp_path / "bare" / "README.md")
    assert card.data.license == "unknown" and card.data.eval_results is None
    assert "Training" not in card.content and "None" not in card.content


@pytest.fixture
def made(tmp_path):
    """A card, as made anew for any name."""
    WGANPipeline(tiny_generator()).save_pretrained(tmp_path / "model")
    return lambda name="model": make_card(tmp_path / "model", name)


def body(card):
    return card.split("---\n", 2)[2]


def test_a_card_that_nobody_touched_is_made_anew(made):
    assert merge(made("new"), made("old"), made("older")) == made("new")
    assert merge(made("new"), "", "") == made("new")


def test_text_around_the_marks_stays_wherever_it_was_written(made):
    above = made("old").replace("---\n\n<!--", "---\n\nMy dog drew these.\n\n<!--")
    below = made("old") + "\nThanks to my cat.\n"
    for merged in (merge(made("new"), "", above), merge(made("new"), above)):
        assert body(merged).strip().startswith("My dog drew these.")
        assert '"new"' in merged and '"old"' not in merged
    both = merge(made("new"), below, above)
    assert "My dog drew these." in both and "Thanks to my cat." in both
    assert merge(made("new"), both, both) == both, "and it stays the same from then on"


def test_a_text_changed_on_one_side_replaces_the_older_one_there(made):
    pushed = merge(made(), made() + "\nFirst thoughts.\n", "")  # and both copies are this one
    edited = pushed.replace("First thoughts.", "Second thoughts.")
    for merged in (merge(made(), edited, pushed), merge(made(), pushed, edited)):
        assert "Second thoughts." in merged and "First thoughts." not in merged
    elsewhere = pushed.replace("First thoughts.", "Other thoughts.")
    merged = merge(made(), edited, elsewhere)
    assert "Second thoughts." in merged and "Other thoughts." in merged, "both sides changed: nothing is lost"


def test_a_card_changed_between_the_marks_is_kept_whole(made):
    edited = made("old").replace("Intended use and limits", "What it is good for")
    for merged in (merge(made("new"), edited, made("old")), merge(made("new"), made("old"), edited)):
        assert body(merged) == body(edited)


def test_a_card_without_the_marks_is_kept_whole(made):
    merged = merge(made(), "", "---\nlicense: mit\n---\n# Mine alone\n")
    assert body(merged) == "# Mine alone\n"
    data = yaml.safe_load(merged.split("---")[1])
    assert data["license"] == "mit" and data["library_name"] == "diffusers"


def test_an_empty_card_or_that_of_diffusers_is_replaced(made):
    automatic = "---\nlibrary_name: diffusers\n---\n<!-- This model card has been generated automatically …\n-->\n# 🧨"
    for published in ("---\nlicense: mit\n---\n", automatic):
        merged = merge(made(), "", published)
        assert "How to use" in merged and "🧨" not in merged
    assert "license: mit" in merge(made(), "", "---\nlicense: mit\n---\n")


def test_metadata_changed_by_hand_stays_and_lists_are_united(made):
    edited = (
        made("old").replace("license: unknown", "license: mit\nlanguage: en").replace("- wgan\n", "- wgan\n- dogs\n")
    )
    for merged in (merge(made("new"), made("old"), edited), merge(made("new"), edited, made("old"))):
        data = yaml.safe_load(merged.split("---")[1])
        assert (data["license"], data["language"]) == ("mit", "en")
        assert data["tags"][:2] == ["hf_wgan", "wgan"] and data["tags"].count("wgan") == 1 and "dogs" in data["tags"]


def test_metadata_changed_by_hand_stays_at_every_push_and_the_latest_change_counts(made):
    edited = made("old").replace("license: unknown", "license: mit\nlanguage: en")
    pushed = merge(made("new"), made("old"), edited)
    again = merge(made("newer"), pushed, pushed)
    assert "license: mit" in again and "language: en" in again
    assert merge(made("newer"), "", again) == again, "and without a copy here"
    since = again.replace("license: mit", "license: apache-2.0")
    for merged in (merge(made("newer"), again, since), merge(made("newer"), since, again)):
        assert "license: apache-2.0" in merged and "language: en" in merged
    unknown_here = made("other").replace("license: unknown", "license: bsd-3-clause")
    merged = merge(made("newer"), unknown_here, again)
    assert "license: bsd-3-clause" in merged and "language: en" in merged, "of a new folder, changed too"


def test_a_piece_that_was_made_and_nobody_changed_is_made_anew(made):
    edited = made("old").replace("license: unknown", "license: unknown\nlanguage: en")
    licensed = made("new").replace("license: unknown", "license: mit")
    data = yaml.safe_load(merge(licensed, "", edited).split("---")[1])
    assert (data["license"], data["language"]) == ("mit", "en")


def test_a_broken_header_does_not_stop_a_push(made):
    assert "By hand" in merge(made(), "", "---\n: [broken\n---\nBy hand\n")


HOSTILE = "</td><script>alert(1)</script> [link](javascript:x) `code` | cell\n\n# Heading"
FIGURE = {"metric_type": "fid", "metric_name": "Fréchet distance", "metric_value": 1, "settings": {"features": "x"}}


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_names_of_datasets_classes_and_files_are_text_and_not_html(run):
    record = json.loads((run / "training_config.json").read_text())
    dataset = record["dataset"] | {"name": HOSTILE, "config": {"train_data_dir": HOSTILE, HOSTILE: 1}}
    versions = {"torch": HOSTILE}
    machine = record["machine"] | {"device": HOSTILE}
    hostile = {"dataset": dataset, "versions": versions, "machine": machine, "base_model": HOSTILE, "preset": HOSTILE}
    change(run / "training_config.json", **hostile, command=f"train '{HOSTILE}\n```\n<b>'")
    change(run / "generator" / "config.json", num_classes=1, class_names=[HOSTILE])
    settings = {"features": HOSTILE, "real_images_instead": HOSTILE}
    (run / "evaluation.json").write_text(json.dumps([FIGURE | {"metric_name": HOSTILE, "settings": settings}]))
    shutil.copy(run / "samples" / "step-000004.png", run / "samples" / "step-9<script>.png")
    hostile_run = run.rename(run.parent / 'x"); print(1) <script>')
    text = make_card(hostile_run, hostile_run.name)
    prose = "".join(text.split("\n```")[::2])
    assert "alert(1)" in prose and "<script>" not in prose and "](javascript" not in prose
    assert "</td>" not in prose and "# Heading" not in [line.strip() for line in text.splitlines()]
    assert "<b>" not in prose, "a command does not end its block"
    usage = text.split("```python\n")[1].split("```")[0]
    assert 'from_pretrained("x\\"); print(1) <script>")' in usage
    compile(usage, "usage", "exec")


def test_local_paths_and_credentials_are_not_in_a_card(run):
    home, token = "/home/me/secret project", "hf_abcdefghijklmnopqrstuvwxyz"
    record = json.loads((run / "training_config.json").read_text())
    places = [f"{home}/photos", "~/secret project/photos", "..\\secret project\\photos", "C:\\secret project\\photos"]
    places += [f"file://{home}/photos", f"zip://{home}/photos", "//server/secret project/photos"]
    dataset = record["dataset"] | {
        "name": places[0],
        "config": {"data_files": places, "url": f"https://me:{token}@x.org/a"},
    }
    command = f"HF_TOKEN={token} python '{home}/scripts/train.py' --train_data_dir='{places[1]}' --hub_token {token}"
    change(run / "training_config.json", dataset=dataset, command=command, base_model=f"{home}/model")
    evaluation = [FIGURE | {"settings": {"features": f"classifier:{home}/photos", "seed": 0}}]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    text = make_card(run, "me/model")
    assert "secret project" not in text and token not in text and "server" not in text
    assert "python train.py --train_data_dir=photos\n" in text
    assert "features: classifier:photos" in text.replace("Features", "features") and "https://x.org/a" in text


def test_the_last_samples_are_those_of_the_largest_step(run):
    for step in ("999995", "1000000"):
        shutil.copy(run / "samples" / "step-000004.png", run / "samples" / f"step-{step}.png")
    assert "(samples/step-1000000.png)" in make_card(run, "me/model")


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))


@pytest.mark.parametrize(
    "header",
    [BOMB, "a: &a [*a]\n", "a: &a {b: *a}\n", "[" * 100_000 + "\n", "x: y\n" * 100_000, "? " * 5000 + "\n"],
    ids=["aliases", "a list in itself", "a mapping in itself", "deep", "long", "deep keys"],
)
def test_metadata_that_explodes_is_refused_at_once(header, made):
    start, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    card = f"---\n{header}---\n" + made().split("---\n", 2)[2]
    for copies in ((card, ""), ("", card)):
        try:
            merge(made(), *copies)
        except InputError as error:
            assert "metadata" in str(error) and "\n" not in str(error)
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000, "KiB"


def test_aliases_that_a_person_uses_stay(made):
    by_hand = made().replace("license: unknown", "license: mit\nfirst: &a [one, two]\nsecond: *a")
    data = yaml.safe_load(merge(made("new"), by_hand).split("---")[1])
    assert data["first"] == data["second"] == ["one", "two"]


def test_a_full_disk_loses_nothing_that_was_written(run, monkeypatch):
    (run / "README.md").write_text((run / "README.md").read_text() + "\nMy own words.\n")
    record_evaluation(run, [FIGURE])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    write_text = Path.write_text

    def full(path, text, **options):
        write_text(path, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(Path, "write_text", full)
        for write in (lambda: record_evaluation(run, [FIGURE | {"metric_value": 2}]), lambda: write_card(run)):
            with pytest.raises(OSError, match="No space left"):
                write()
            assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    record_evaluation(run, [FIGURE | {"metric_value": 2}])
    assert (
        "My own words." in (run / "README.md").read_text()
        and '"metric_value": 2' in (run / "evaluation.json").read_text()
    )


@pytest.mark.parametrize("half", ['[{"metric_type": "f', "{", "{}", "5", "[5]", '[{"settings": {}}]', '{"a": 1}'])
def test_half_written_figures_are_left_out_and_measured_again(half, run, capsys):
    (run / "evaluation.json").write_text(half)
    write_card(run)
    assert "evaluation.json is damaged, and its metrics are left out" in capsys.readouterr().err
    row = {"metric_type": "f", "metric_name": "F", "metric_value": 1.5, "settings": {}}
    record_evaluation(run, [row])
    assert json.loads((run / "evaluation.json").read_text()) == [row]


def test_a_damaged_file_of_the_run_is_named(run):
    (run / "training_config.json").write_text('{"training": ')
    with pytest.raises(InputError, match=r"training_config\.json is not valid JSON .*: remove or correct it"):
        write_card(run)


def test_a_half_written_line_of_metrics_is_left_out(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "wasser')
    assert "4 generator updates" in make_card(run, "me/model")


@pytest.mark.parametrize(
    "estimates, says, says_not",
    [
        (range(40), "It rose during the run", "It fell"),
        (range(40, 0, -1), "It fell during the run", "It rose"),
        (range(20, -60, -2), "It was below zero at the end", "It fell"),
        ([-9.0] * 20 + [-4.0] * 20, "It was below zero at the end", "It rose"),
        ([0.0] * 40, "Its scale belongs", "It "),
        ([17.0] * 10 + [5.2] * 10 + [5.5] * 20, "Its scale belongs", "It "),
        ([2.0, 1.0], "Its scale belongs", "It "),
    ],
)
def test_the_card_says_whether_the_estimate_fell_or_rose_or_is_below_zero(estimates, says, says_not, run):
    rows = [
        {"step": step, "seconds": 1.0, "wasserstein_estimate": float(value)} for step, value in enumerate(estimates)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half": 1')
    about = make_card(run, "me/model").partition("Wasserstein estimate of this critic on training images at")[2]
    assert says in about and says_not not in about.partition("Its scale")[0]
