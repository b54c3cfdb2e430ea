import json

import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from PIL import Image
from processes import outcome

from hf_wgan import ImageSet, InputError, WGANPipeline, WGANTrainer, load_images
from hf_wgan.data import DataConfig
from hf_wgan.metrics.evaluate import evaluate
from hf_wgan.metrics.features import load_feature_extractor
from hf_wgan.utils import files

EVALUATED = {"evaluation_steps": 2, "evaluation_features": "pixels", "num_evaluation_images": 20}
FIGURES = {"frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage", "copied_share"}


def trainer(config, **options):
    return WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config, **options)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def recorded(folder):
    """The step and the figures of the model in a folder."""
    found = json.loads((folder / "evaluation.json").read_text())
    return found[0]["settings"]["step"], {row["metric_type"]: row["metric_value"] for row in found}


def test_figures_go_into_the_rows_of_their_steps_and_the_best_model_is_kept(tiny_config, tmp_path, capsys):
    trainer(tiny_config(max_train_steps=5, **EVALUATED)).train()
    measured = {row["step"]: row for row in rows(tmp_path / "run") if set(row) >= FIGURES}
    assert list(measured) == [2, 4, 5], "and the last"
    best = min(measured, key=lambda step: measured[step]["frechet_distance"])
    step, figures = recorded(tmp_path / "run" / "best")
    assert step == best
    assert figures["frechet_distance"] == round(measured[best]["frechet_distance"], 4)
    step, figures = recorded(tmp_path / "run")
    assert step == 5, "the run's own pipeline is that of its last step"
    assert figures["frechet_distance"] == round(measured[5]["frechet_distance"], 4)
    assert str(figures["frechet_distance"]) in (tmp_path / "run" / "README.md").read_text()
    said = capsys.readouterr().err
    assert f"at step {best}, kept in {tmp_path / 'run' / 'best'}" in said
    assert "Evaluation took" in said and "% of the time" in said


def test_a_run_with_clusters_is_measured_by_the_labels_that_the_images_have(tiny_config, tmp_path):
    labelled = ImageSet(tiny_images().images, labels=torch.arange(24) % 3)
    networks = tiny_generator(num_classes=2, class_frequencies=[16, 8]), tiny_critic(num_classes=2)
    images = labelled.with_clusters(np.arange(24) // 16)
    config = tiny_config(class_conditional=True, **EVALUATED)
    run = WGANTrainer(*networks, images, config, held_out=tiny_images())
    run.train()
    assert torch.equal(run.evaluations.images.labels, labelled.labels)
    assert set(rows(tmp_path / "run")[-1]) >= FIGURES


def test_what_is_measured_and_kept_is_the_averaged_generator_of_that_step(tiny_config, tmp_path):
    options = {"use_ema": True, "generator_learning_rate": 1e-2, "metric_for_best_model": "density"}
    trainer(tiny_config(max_train_steps=4, **options, **EVALUATED)).train()
    step, _ = recorded(tmp_path / "run" / "best")
    trainer(tiny_config(output_dir=str(tmp_path / "short"), max_train_steps=step, **options)).train()
    best, expected = (
        WGANPipeline.from_pretrained(folder).generator for folder in (tmp_path / "run" / "best", tmp_path / "short")
    )
    assert all(
        torch.equal(one, other) for one, other in zip(best.state_dict().values(), expected.state_dict().values())
    )
    assert "hf_wgan" in (tmp_path / "run" / "best" / "README.md").read_text()


def test_measuring_does_not_change_the_training(tiny_config, tmp_path):
    trainer(tiny_config(**EVALUATED)).train()
    trainer(tiny_config(output_dir=str(tmp_path / "plain"))).train()
    measured, plain = outcome(tmp_path / "run"), outcome(tmp_path / "plain")
    for row in measured["metrics"]:
        for name in set(row) - set(plain["metrics"][0]):
            del row[name]
    assert measured == plain


def test_a_resumed_run_measures_and_keeps_as_one_never_stopped(tiny_config, tmp_path):
    options = {"max_train_steps": 7, "checkpointing_steps": 3, **EVALUATED}
    trainer(tiny_config(output_dir=str(tmp_path / "whole"), **options)).train()
    parts = {"output_dir": str(tmp_path / "parts")}
    trainer(tiny_config(**parts, **{**options, "max_train_steps": 5})).train()
    (tmp_path / "parts" / "checkpoint-000005").rename(tmp_path / "set-aside")  # go back to step 3
    trainer(tiny_config(**parts, **options, resume_from_checkpoint="latest")).train()
    whole, again = outcome(tmp_path / "whole"), outcome(tmp_path / "parts")
    assert again == whole
    for folder in ("", "best"):
        assert recorded(tmp_path / "parts" / folder) == recorded(tmp_path / "whole" / folder)


def test_samples_are_compared_with_held_out_images_if_there_are_some(tiny_config, tmp_path):
    held_out = ImageSet(255 - tiny_images().images, name="others")
    trainer(tiny_config(**EVALUATED), held_out=held_out).train()
    found = json.loads((tmp_path / "run" / "best" / "evaluation.json").read_text())
    assert found[0]["settings"]["compared_with"] == "held-out images of others"
    assert "critic_estimate_held_out" in rows(tmp_path / "run")[-1]


def test_what_cannot_be_measured_is_refused_before_anything_is_written(tiny_config, tmp_path):
    with pytest.raises(InputError, match="images has no labels to train one on"):
        trainer(tiny_config(evaluation_steps=2, evaluation_features="classifier")).train()
    assert files.is_unused(tmp_path / "run")
    with pytest.raises(InputError, match=r"evaluation_steps=3: must be a multiple of logging_steps=2"):
        tiny_config(evaluation_steps=3, logging_steps=2)


def test_held_out_images_of_another_range_are_refused(tiny_config, tmp_path):
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    sets = {}
    for name, highest in {"train": 5000, "test": 4000}.items():
        (tmp_path / name).mkdir()
        for number in range(20):
            values = ramp * highest * (number + 1) / 20
            Image.fromarray(values.astype(np.uint16)).save(tmp_path / name / f"{number}.png")
        sets[name] = load_images(DataConfig(train_data_dir=str(tmp_path / name), resolution=8))
    networks = tiny_generator(), tiny_critic()
    message = r"held_out: .*'uint16:0,4095' and the training images with value_range='uint16:0,16383'"
    with pytest.raises(InputError, match=message):
        WGANTrainer(*networks, sets["train"], tiny_config(), held_out=sets["test"])
    with pytest.raises(InputError, match=message):
        evaluate(WGANPipeline(*networks), sets["train"], load_feature_extractor("pixels", sets["train"]), sets["test"])
    value_range = sets["train"].config.value_range
    alike = load_images(DataConfig(train_data_dir=str(tmp_path / "test"), resolution=8, value_range=value_range))
    WGANTrainer(*networks, sets["train"], tiny_config(**EVALUATED), held_out=alike)
