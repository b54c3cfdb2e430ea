import json
from dataclasses import fields

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import pictures, tiny_critic, tiny_generator, tiny_images
from processes import ended, outcome, start_run
from test_faults import Signalling

from hf_wgan import ImageSet, InputError, WGANTrainer
from hf_wgan.cli.train import train
from hf_wgan.data import DataConfig
from hf_wgan.training.changes import changes


def trainer(config, images=None, **networks):
    networks = {"generator": tiny_generator(), "critic": tiny_critic()} | networks
    return WGANTrainer(**networks, dataset=tiny_images() if images is None else images, config=config)


HARMLESS = {
    "max_train_steps": 6,
    "logging_steps": 3,
    "checkpointing_steps": 1,
    "on_nan": "restore",
    "license": "mit",
    "max_train_minutes": 5.0,
}
OF_ANOTHER_EXPERIMENT = {
    "seed": 1,
    "critic_learning_rate": 1e-3,
    "lipschitz": "none",
    "train_batch_size": 6,
    "optimizer": "adam",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_leaves_the_experiment_what_it_is_is_said(name, tiny_config, capsys):
    trainer(tiny_config()).train()
    capsys.readouterr()
    trainer(tiny_config(resume_from_checkpoint="latest", **{name: HARMLESS[name]})).train()
    said = capsys.readouterr().err
    assert f"Changed since checkpoint-000004: {name} is {HARMLESS[name]!r}, was " in said
    assert said.count("Changed since") == 1, "not that it is resumed"


@pytest.mark.parametrize("name", OF_ANOTHER_EXPERIMENT)
def test_what_would_make_it_another_experiment_is_refused_unless_it_is_allowed(name, tiny_config, tmp_path, capsys):
    trainer(tiny_config()).train()
    before = outcome(tmp_path / "run")
    options = {"resume_from_checkpoint": "latest", "max_train_steps": 6, name: OF_ANOTHER_EXPERIMENT[name]}
    shown = {"train_batch_size": "machine.global_batch_size"}.get(name, name)
    with pytest.raises(
        InputError, match=rf"checkpoint-000004 is of another experiment: .*{shown} is .*, was "
    ) as error:
        trainer(tiny_config(**options)).train()
    assert "--allow_config_change" in str(error.value)
    assert outcome(tmp_path / "run") == before
    if name != "optimizer":  # whose state is of another form
        trainer(tiny_config(**options, allow_config_change=True)).train()
        assert f"{shown} is {OF_ANOTHER_EXPERIMENT[name]!r}" in capsys.readouterr().err
        rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_other_numbers_of_clusters_are_no_change_that_can_be_allowed(tiny_config, tmp_path):
    def of_clusters(number, **options):
        networks = {"generator": tiny_generator(num_classes=number, class_frequencies=[1] * number)}
        networks["critic"] = tiny_critic(num_classes=number)
        images = tiny_images().with_clusters(np.arange(24) % number)
        return trainer(tiny_config(class_conditional=True, **options), images, **networks)

    of_clusters(20).train()
    before = outcome(tmp_path / "run")
    for allowed in (False, True):
        with pytest.raises(InputError, match=r"generator\.num_classes is 24, was 20") as error:
            of_clusters(24, resume_from_checkpoint="latest", allow_config_change=allowed).train()
        assert "--pretrained_model_name_or_path" in str(error.value) and "--allow" not in str(error.value)
        assert "class_frequencies is [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, …, was" in str(error.value)
    assert outcome(tmp_path / "run") == before


def test_the_record_of_a_run_that_is_resumed_with_fewer_steps_counts_those_that_were_taken(tiny_config, tmp_path):
    trainer(tiny_config(max_train_steps=4)).train()
    trainer(tiny_config(max_train_steps=2, resume_from_checkpoint="latest")).train()
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert record["training"]["max_train_steps"] == 4
    trainer(tiny_config(max_train_steps=6, resume_from_checkpoint="latest")).train()
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert record["training"]["max_train_steps"] == 6


def test_other_images_networks_or_a_longer_schedule_are_another_experiment(tiny_config):
    trainer(tiny_config(lr_scheduler="linear")).train()
    config = {"lr_scheduler": "linear", "resume_from_checkpoint": "latest"}
    with pytest.raises(InputError, match=r"dataset\.fingerprint is"):
        trainer(tiny_config(**config), tiny_images(num_images=16)).train()
    with pytest.raises(InputError, match=r"generator\.width is 4, was 8"):
        trainer(tiny_config(**config), generator=tiny_generator(width=4)).train()
    with pytest.raises(InputError, match="max_train_steps is 9, was 4"):
        trainer(tiny_config(**config, max_train_steps=9)).train()


def test_other_labels_of_the_same_images_are_another_experiment_where_they_are_trained_on(tiny_config):
    def train(labels, conditional=True, **options):
        images = ImageSet(tiny_images().images, labels=torch.tensor(labels))
        networks = {"num_classes": 2 if conditional else None}
        config = tiny_config(class_conditional=conditional, **options)
        trainer(config, images, generator=tiny_generator(**networks), critic=tiny_critic(**networks)).train()

    resumed, labels = {"resume_from_checkpoint": "latest"}, [0, 1] * (len(tiny_images()) // 2)
    train(labels)
    train(labels, **resumed)
    with pytest.raises(InputError, match=r"dataset\.labels_fingerprint is"):
        train(labels[::-1], **resumed)
    train(labels, conditional=False, overwrite_output_dir=True)
    train(labels[::-1], conditional=False, **resumed)


def test_names_of_classes_that_an_earlier_version_did_not_keep_are_no_other_experiment():
    def record(*names):
        return {"generator": {"class_names": names or None}}

    assert all(change.harmless for change in changes(record(), record("a", "b")))
    assert not any(change.harmless for change in changes(record("b", "a"), record("a", "b")))


def test_a_batch_divided_otherwise_is_the_same_experiment():
    def record(size, steps, processes):
        training = {"train_batch_size": size, "gradient_accumulation_steps": steps, "lr_scheduler": "constant"}
        machine = {"num_processes": processes, "global_batch_size": size * steps * processes}
        return {"training": training, "machine": machine}

    assert all(change.harmless for change in changes(record(8, 1, 1), record(2, 2, 2)))
    assert not all(change.harmless for change in changes(record(8, 1, 1), record(8, 2, 1)))


def test_the_same_images_from_another_place_are_the_same():
    def record(name, fingerprint, **config):
        return {"dataset": {"name": name, "fingerprint": fingerprint, "config": {"dataset_name": name, **config}}}

    assert all(change.harmless for change in changes(record("a", "1"), record("b", "1")))
    assert not all(change.harmless for change in changes(record("a", ""), record("b", "")))
    flips = [record("a", "1", random_flip=flip) for flip in (True, False)]
    assert [change.name for change in changes(*flips) if not change.harmless] == ["dataset.config.random_flip"]


@pytest.mark.parametrize("first, second", [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes_where_it_was(first, second, tmp_path):
    gp = ["--lipschitz", "gp", "--architecture", "mlp"]  # without batch normalisation, which sees one process's part

    def options(num_processes):
        return ["--train_batch_size", str(8 // num_processes), "--max_train_steps", "20", *gp]

    assert ended(start_run(tmp_path / "whole", options(1))) == [0]
    hook = Signalling(9, 15)
    assert ended(start_run(tmp_path / "run", options(first), first, hook)) == [143] * first
    progress = json.loads((tmp_path / "run" / "checkpoint-000010" / "progress.json").read_text())
    assert (progress["step"], progress["critic_steps"], progress["images"]) == (10, 20, 160)
    resumed = [*options(second), "--resume_from_checkpoint", "latest"]
    assert ended(start_run(tmp_path / "run", resumed, second)) == [0] * second
    assert f"machine.num_processes is {second}, was {first}" in (tmp_path / "run.log").read_text()
    for player in ("generator", "critic"):
        one, other = (
            safetensors.torch.load_file(tmp_path / run / player / "diffusion_pytorch_model.safetensors")
            for run in ("run", "whole")
        )
        for name, value in one.items():
            assert torch.allclose(value, other[name], rtol=1e-2, atol=1e-4), "the same batches, added up otherwise"


def test_networks_that_draw_random_numbers_resume_exactly_too(tiny_config, tmp_path):
    def run(name, **options):
        critic = tiny_critic()
        run = trainer(tiny_config(output_dir=str(tmp_path / name), **options), critic=critic)
        critic.layers[0].register_forward_pre_hook(
            lambda module, inputs: (torch.nn.functional.dropout(inputs[0], 0.5),)
        )
        run.train()

    run("whole", max_train_steps=7)
    run("parts", max_train_steps=5)
    torch.manual_seed(99)
    np.random.seed(99)
    run("parts", max_train_steps=7, resume_from_checkpoint="latest")
    assert (
        outcome(tmp_path / "whole")["generator/diffusion_pytorch_model.safetensors"]
        == (outcome(tmp_path / "parts")["generator/diffusion_pytorch_model.safetensors"])
    )


MADE_OF_STREAMS = {
    "background": "black",
    "center_crop": False,
    "channels": 1,
    "random_flip": True,
    "resolution": 8,
    "shuffle_buffer_size": 5,
    "value_range": "0,1",
    "width": 9,
}


@pytest.mark.parametrize("name", [field.name for field in fields(DataConfig) if field.name != "streaming"])
def test_what_is_made_of_the_same_stream_is_part_of_the_experiment(name):
    def record(**options):
        return {"dataset": {"fingerprint": "1", "config": {"streaming": True, name: "as before", **options}}}

    (change,) = changes(record(), record(**{name: MADE_OF_STREAMS.get(name, "another")}))
    assert change.harmless is (name not in MADE_OF_STREAMS)


def test_a_stream_is_resumed_on_the_background_that_it_had(tmp_path, capsys):
    for number, picture in enumerate(pictures(8, mode="RGBA")):
        picture.putalpha(30 * number)
        (tmp_path / "photos").mkdir(exist_ok=True)
        picture.save(tmp_path / "photos" / f"{number}.png")
    tiny = ["--generator_width", "8", "--critic_width", "8", "--resolution", "8", "--train_batch_size", "4"]
    options = [
        *tiny,
        "--train_data_dir",
        str(tmp_path / "photos"),
        "--streaming",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    assert train([*options, "--max_train_steps", "1", "--checkpointing_steps", "1"]) == 0
    resumed = [*options, "--max_train_steps", "2", "--resume_from_checkpoint", "latest"]
    assert train([*resumed, "--background", "black"]) == 2
    assert "dataset.config.background is 'black', was 'white'" in capsys.readouterr().err
    assert train(resumed) == 0


def test_the_range_of_values_is_part_of_the_pixels():
    def record(value_range, fingerprint="1"):
        dataset = {"fingerprint": fingerprint, "config": {"value_range": value_range}}
        return {"dataset": dataset, "generator": {"class": "DCGANGenerator", "value_range": value_range}}

    before = record("uint16:0,16383")
    assert all(change.harmless for change in changes(before, record("0,16383")))
    assert not all(change.harmless for change in changes(before, record("0,65535", fingerprint="2")))
