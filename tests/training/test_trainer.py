import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from conftest import pictures, tiny_critic, tiny_generator, tiny_images
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from processes import outcome

from hf_wgan import ImageSet, InputError, WGANPipeline, WGANTrainer
from hf_wgan.training.snapshot import measured, portable_copy


def trainer(config, dataset=None, **networks):
    networks = {"generator": tiny_generator(), "critic": tiny_critic()} | networks
    return WGANTrainer(**networks, dataset=tiny_images() if dataset is None else dataset, config=config)


def weights(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.safetensors"))}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_the_files_of_the_design(tiny_config, tmp_path):
    pipeline = trainer(tiny_config()).train()
    files = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    network = {"config.json", "diffusion_pytorch_model.safetensors"}
    networks = {f"{player}/{file}" for player in ("generator", "critic") for file in network}
    checkpoint = networks | {"optimizers.pt", "progress.json", "manifest.json", "metrics.jsonl", "training_config.json"}
    code = {"generator/hf_wgan_dcgan.py", "critic/hf_wgan_dcgan.py", "hf_wgan_pipeline_wgan.py"}
    assert files == {
        *code,
        ".lock",
        "model_index.json",
        "README.md",
        "training_config.json",
        "metrics.jsonl",
        "curves.png",
        "training.webp",
        "samples/real.png",
        "samples/step-000000.png",
        "samples/step-000001.png",
        "samples/step-000002.png",
        "samples/step-000004.png",
        *networks,
        *(f"checkpoint-{step}/{file}" for step in ("000002", "000004") for file in checkpoint),
    }
    loaded = WGANPipeline.from_pretrained(tmp_path / "run")
    images = [
        each(4, generator=torch.Generator().manual_seed(0), output_type="np").images for each in (pipeline, loaded)
    ]
    assert np.array_equal(*images)


def test_metrics_have_a_line_a_report_with_finite_values(tiny_config, tmp_path):
    trainer(tiny_config(max_train_steps=5, logging_steps=2)).train()
    metrics = rows(tmp_path / "run")
    assert [row["step"] for row in metrics] == [2, 4, 5]
    assert list(metrics[0]) == [
        "step",
        "critic_loss",
        "generator_loss",
        "wasserstein_estimate",
        "real_score",
        "fake_score",
        "critic_gradient_norm",
        "generator_gradient_norm",
        "seconds",
        "images_per_second",
    ]
    for row in metrics:
        assert np.isfinite(list(row.values())).all()
        assert row["wasserstein_estimate"] == -row["critic_loss"]
        assert row["real_score"] - row["fake_score"] == pytest.approx(row["wasserstein_estimate"], abs=1e-7)
        assert row["critic_gradient_norm"] > 0 and row["generator_gradient_norm"] > 0
        assert row["images_per_second"] > 0
    assert np.all(np.diff([row["seconds"] for row in metrics]) > 0)


def test_reported_losses_are_means_over_the_steps_since_the_last_report(tiny_config, tmp_path):
    trainer(tiny_config(output_dir=str(tmp_path / "each"))).train()
    trainer(tiny_config(output_dir=str(tmp_path / "pairs"), logging_steps=2)).train()
    each, pairs = rows(tmp_path / "each"), rows(tmp_path / "pairs")
    for name in ("critic_loss", "generator_loss"):
        values = [row[name] for row in each]
        assert [row[name] for row in pairs] == pytest.approx([np.mean(values[:2]), np.mean(values[2:])])


def test_the_record_of_a_run_holds_every_option(tiny_config, tmp_path):
    config = tiny_config()
    trainer(config).train()
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert record["training"] | {"hub_token": None} == json.loads(json.dumps(vars(config)))
    assert "hub_token" not in record["training"]
    assert record["generator"]["class"] == "DCGANGenerator"
    assert record["generator"]["width"] == 8
    assert record["dataset"] == {
        "name": "images",
        "hub_id": None,
        "num_images": 24,
        "fingerprint": tiny_images().fingerprint,
        "config": None,
    }
    assert {"torch", "accelerate", "diffusers", "hf_wgan", "python"} <= set(record["versions"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tiny_config, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        trainer(tiny_config(output_dir=str(tmp_path / name), seed=seed)).train()
    one, two, three = (weights(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one.keys() == three.keys() and all(one[name] != three[name] for name in one)


def test_reports_and_samples_do_not_change_the_training(tiny_config, tmp_path):
    trainer(tiny_config(output_dir=str(tmp_path / "often"), validation_steps=1, checkpointing_steps=1)).train()
    seldom = {"logging_steps": 4, "validation_steps": 100, "checkpointing_steps": 100, "num_validation_images": 1}
    trainer(tiny_config(output_dir=str(tmp_path / "seldom"), **seldom)).train()
    assert weights(tmp_path / "often") == weights(tmp_path / "seldom")


RESUMED = {
    "rmsprop": {},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw", "lipschitz": "gp", "use_ema": True},
    "schedule": {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 6, "lipschitz": "dragan"},
    "augmented": {"augmentation": "color,translation,cutout", "lipschitz": "r1r2", "penalty_interval": 3},
    "adaptively augmented": {
        "augmentation": "color,cutout",
        "adaptive_augmentation": True,
        "adaptive_augmentation_images": 100,
        "adaptive_augmentation_target": 0.01,
        "lipschitz": "lp",
    },
    "spectral": {"lipschitz": "spectral", "use_ema": True},
}


@pytest.mark.parametrize("kind", RESUMED)
def test_a_resumed_run_ends_as_one_never_stopped(kind, tiny_config, tmp_path):
    options = {"max_train_steps": 7, "checkpointing_steps": 3, **RESUMED[kind]}

    def critic():
        if options.get("lipschitz", "clip") == "clip":
            return tiny_critic()
        return tiny_critic(norm_type="none", spectral_norm=options["lipschitz"] == "spectral")

    trainer(tiny_config(output_dir=str(tmp_path / "whole"), **options), critic=critic()).train()

    first = tiny_config(output_dir=str(tmp_path / "parts"), **{**options, "max_train_steps": 5})
    trainer(first, critic=critic()).train()
    (tmp_path / "parts" / "checkpoint-000005").rename(tmp_path / "set-aside")  # go back to step 3
    second = tiny_config(output_dir=str(tmp_path / "parts"), resume_from_checkpoint="latest", **options)
    fresh = {"generator": tiny_generator(), "critic": critic()}
    for network in fresh.values():
        torch.nn.init.constant_(next(network.parameters()), 0.5)  # whatever it starts from is replaced
    trainer(second, **fresh).train()

    parts = outcome(tmp_path / "parts")
    assert outcome(tmp_path / "whole") == parts


def test_the_average_of_the_generator_is_shipped_and_the_raw_weights_are_a_variant(tiny_config, tmp_path):
    run = trainer(tiny_config(use_ema=True, ema_rampup_ratio=0.5, max_train_steps=5, generator_learning_rate=1e-2))
    average = [parameter.detach().clone() for parameter in run.generator.parameters()]
    history = []
    one_step = run.step

    def recorded():
        losses = one_step()
        history.append([parameter.detach().clone() for parameter in run.generator.parameters()])
        return losses

    run.step = recorded
    pipeline = run.train()
    for number, weights_then in enumerate(history, start=1):
        decay = 0.5 ** (1 / (0.5 * number))  # the half-life is half of the steps so far
        average = [decay * old + (1 - decay) * new for old, new in zip(average, weights_then)]
    for found, expected, raw in zip(pipeline.generator.parameters(), average, history[-1]):
        assert torch.allclose(found, expected, atol=1e-6) and not torch.allclose(found, raw, atol=1e-6)
    shipped = WGANPipeline.from_pretrained(tmp_path / "run")
    assert all(map(torch.equal, shipped.generator.parameters(), pipeline.generator.parameters()))
    raw = WGANPipeline.from_pretrained(tmp_path / "run", variant="raw").generator
    assert all(map(torch.equal, raw.parameters(), history[-1]))
    statistics = dict(shipped.generator.named_buffers())
    assert any(not torch.equal(value, statistics[name]) for name, value in raw.named_buffers()), "each has its own"
    assert len(run.train().generator.state_dict()) == len(raw.state_dict())


def test_learning_rates_follow_the_schedule_of_their_name(tiny_config):
    run = trainer(tiny_config(lr_scheduler="linear", lr_warmup_steps=2, max_train_steps=6, critic_learning_rate=1e-3))
    rates = []
    one_step = run.step
    generator, critic = (optimizer.param_groups[0] for optimizer in run.state.optimizers.values())
    run.step = lambda: (rates.append((generator["lr"], critic["lr"])), one_step())[1]
    run.train()
    shares = [0, 0.5, 1, 0.75, 0.5, 0.25]
    assert np.allclose(rates, [(5e-5 * share, 1e-3 * share) for share in shares])


def test_a_run_ends_when_its_time_is_up(tiny_config, tmp_path, monkeypatch):
    run = trainer(tiny_config(max_train_steps=10**6, max_train_minutes=0.01, logging_steps=2))
    run.train()
    last = rows(tmp_path / "run")[-1]
    assert 0.6 <= last["seconds"] < 6 and last["step"] < 10**5
    assert (tmp_path / "run" / f"checkpoint-{last['step']:06d}").is_dir()
    assert not run.interrupted and (tmp_path / "run" / "model_index.json").is_file()


def test_the_penalty_is_reported_by_itself(tiny_config, tmp_path):
    trainer(tiny_config(lipschitz="gp"), critic=tiny_critic(norm_type="none")).train()
    for row in rows(tmp_path / "run"):
        assert row["gradient_penalty"] > 0
        assert row["wasserstein_estimate"] == -row["critic_loss"]


def labelled_images(num_classes=3):
    images = tiny_images()
    labels = torch.arange(len(images)) % num_classes
    return ImageSet(images.images, labels=labels, label_names=[f"kind {number}" for number in range(num_classes)])


def conditional_pair(num_classes=3):
    names = [f"kind {number}" for number in range(num_classes)]
    generator = tiny_generator(num_classes=num_classes, class_names=names)
    return {"generator": generator, "critic": tiny_critic(num_classes=num_classes)}


def unnamed_pair(num_classes=3):
    return {"generator": tiny_generator(num_classes=num_classes), "critic": tiny_critic(num_classes=num_classes)}


def test_a_conditional_pair_trains_on_labels_and_ships_its_classes(tiny_config, tmp_path):
    trainer(tiny_config(class_conditional=True), labelled_images(), **conditional_pair()).train()
    pipeline = WGANPipeline.from_pretrained(tmp_path / "run")
    latents = torch.randn(1, 4).expand(3, 4)
    different = pipeline(latents=latents, output_type="pt").images
    assert not torch.equal(different[0], different[1]), "the classes in turn"
    for label in (1, "kind 1", [1, "kind 1", 1], torch.tensor([1, 1, 1])):
        same = pipeline(latents=latents, class_labels=label, output_type="pt").images
        assert torch.equal(same, different[1:2].expand_as(same))


def test_a_generator_without_names_of_its_classes_gets_those_of_the_images(tiny_config, tmp_path):
    trainer(tiny_config(class_conditional=True), labelled_images(), **unnamed_pair()).train()
    pipeline = WGANPipeline.from_pretrained(tmp_path / "run")
    latents = torch.randn(2, 4)
    by_name, by_number = (pipeline(latents=latents, class_labels=of, output_type="pt").images for of in ("kind 2", 2))
    assert torch.equal(by_name, by_number)
    config = tiny_config(class_conditional=True, output_dir=str(tmp_path / "more"))
    assert trainer(config, labelled_images(), **unnamed_pair(4)).generator.config.class_names is None


def test_classes_are_numbered_as_the_generator_names_them(tiny_config):
    images, names = labelled_images(), ["kind 2", "kind 0", "another", "kind 1"]
    pair = unnamed_pair(4) | {"generator": tiny_generator(num_classes=4, class_names=names)}
    numbered = trainer(tiny_config(class_conditional=True), images, **pair).dataset
    assert [names[number] for number in numbered.labels] == [images.label_names[number] for number in images.labels]
    labels = [images.label_names[number] for number in images.labels]
    stream = Dataset.from_dict({"image": pictures(24), "label": labels}).to_iterable_dataset()
    pair = unnamed_pair() | {"generator": tiny_generator(num_classes=3, class_names=["kind 0", "kind 1", "kind 3"])}
    for of in (images, stream):
        with pytest.raises(
            InputError, match=r"class_names=.*'kind 3'.*has the classes \['kind 0', 'kind 1', 'kind 2'\]"
        ):
            trainer(tiny_config(class_conditional=True), of, **pair)


def test_the_statistics_of_a_conditional_generator_are_those_of_the_classes_of_the_images(tiny_config):
    images = labelled_images()
    images = ImageSet(images.images, labels=images.labels.clamp(max=1), label_names=["kind 0", "kind 1", "kind 2"])
    run = trainer(tiny_config(class_conditional=True), images, **conditional_pair())
    shipped = run.pipeline().generator.state_dict()
    expected = measured(
        portable_copy(run.generator), 8, run.config.seed, class_counts=images.labels.bincount()
    ).state_dict()
    evenly = measured(portable_copy(run.generator), 8, run.config.seed).state_dict()
    means = [name for name in shipped if name.endswith("running_mean")]
    assert all(torch.equal(shipped[name], expected[name]) for name in means)
    assert not any(torch.equal(shipped[name], evenly[name]) for name in means)


@pytest.mark.parametrize(
    "labels, message",
    [
        (3, "must be a number from 0 to 2, or one of 'kind 0', 'kind 1', 'kind 2'"),
        ("dog", "class_labels='dog'"),
        ([0], "1 class_labels for batch_size=2"),
        (-1, "class_labels=-1"),
    ],
)
def test_classes_that_are_not_there_are_named(labels, message):
    pipeline = WGANPipeline(conditional_pair()["generator"])
    with pytest.raises(InputError, match=message):
        pipeline(2, class_labels=labels)
    with pytest.raises(InputError, match="the model has no classes"):
        WGANPipeline(tiny_generator())(2, class_labels=0)


@pytest.mark.parametrize(
    "config, networks, dataset, message",
    [
        ({"class_conditional": True}, {}, labelled_images, "num_classes=None"),
        ({}, conditional_pair, labelled_images, "class_conditional=False with a generator of num_classes=3"),
        ({"class_conditional": True}, conditional_pair, tiny_images, "has no labels"),
        ({"class_conditional": True}, conditional_pair, lambda: labelled_images(5), "has the classes .*'kind 4'"),
        ({"class_conditional": True}, unnamed_pair, lambda: labelled_images(5), "from 0 to 4"),
        ({"lipschitz": "gp"}, {}, tiny_images, "batch normalisation in the critic"),
        ({"lipschitz": "spectral"}, {}, tiny_images, "spectral_norm=True"),
    ],
)
def test_what_theory_or_labels_do_not_allow_is_refused(config, networks, dataset, message, tiny_config, tmp_path):
    networks = networks() if callable(networks) else {"critic": tiny_critic(sample_size=16), **networks}
    sizes = {} if "generator" in networks else {"generator": tiny_generator(sample_size=16)}
    images = dataset() if "generator" in networks else tiny_images(size=16)
    with pytest.raises(InputError, match=message):
        trainer(tiny_config(**config), images, **networks, **sizes)
    assert not (tmp_path / "run").exists()


def test_only_the_newest_checkpoints_are_kept(tiny_config, tmp_path):
    trainer(tiny_config(checkpointing_steps=1, checkpoints_total_limit=2)).train()
    assert sorted(path.name for path in (tmp_path / "run").glob("*checkpoint*")) == [
        "checkpoint-000003",
        "checkpoint-000004",
    ]


def test_checkpoints_hold_nothing_that_loading_would_execute(tiny_config, tmp_path):
    trainer(tiny_config()).train()
    torch.load(tmp_path / "run" / "checkpoint-000004" / "optimizers.pt", weights_only=True)
    assert not list((tmp_path / "run").rglob("*.bin"))


def test_a_checkpoint_of_other_networks_is_refused(tiny_config, tmp_path):
    trainer(tiny_config()).train()
    config = tiny_config(resume_from_checkpoint="latest", max_train_steps=6, allow_config_change=True)
    before = weights(tmp_path / "run")
    with pytest.raises(InputError, match=r"checkpoint-000004 is of another experiment: generator\.width is 4, was "):
        trainer(config, generator=tiny_generator(width=4)).train()
    assert weights(tmp_path / "run") == before


def test_shipped_batch_norm_statistics_are_those_of_the_final_weights(tiny_config):
    generator = tiny_generator()
    run = trainer(tiny_config(generator_learning_rate=0.05), generator=generator)
    pipeline = run.train()
    latents = torch.randn(4096, 4)
    generator.train()
    with torch.no_grad():
        as_trained = generator(latents)
        shipped = pipeline.generator(latents)
    assert (as_trained - shipped).abs().mean() < 0.1 * as_trained.std()
    assert not pipeline.generator.training


def test_training_starts_from_the_networks_given_and_leaves_them_trained(tiny_config):
    generator = tiny_generator()
    before = generator.layers[0].weight.detach().clone()
    pipeline = trainer(tiny_config(), generator=generator).train()
    assert not torch.equal(before, generator.layers[0].weight)
    assert torch.equal(pipeline.generator.layers[0].weight, generator.layers[0].weight)


def test_bfloat16_trains_and_ships_float32(tiny_config, tmp_path):
    run = trainer(tiny_config(mixed_precision="bf16"))
    seen = []
    run.critic.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    pipeline = run.train()
    assert set(seen) == {torch.bfloat16}
    assert pipeline.generator.dtype == torch.float32
    assert np.isfinite([row["critic_loss"] for row in rows(tmp_path / "run")]).all()


def test_the_critic_warm_up_is_followed(tiny_config):
    run = trainer(tiny_config(critic_warmup=True, max_train_steps=2))
    run.train()
    assert run.real_batches.position == 200


def test_images_of_a_datasets_dataset_are_fitted_to_the_generator(tiny_config):
    pictures = [PILImage.new("RGB", (20, 30), (index, 0, 0)) for index in range(10)]
    dataset = Dataset.from_dict({"photo": pictures}, features=Features({"photo": Image()}))
    run = trainer(tiny_config(), dataset)
    assert run.dataset.images.shape == (10, 1, 8, 8)


def test_a_stream_trains(tiny_config, tmp_path):
    pictures = [PILImage.new("RGB", (20, 30), (index, 0, 0)) for index in range(20)]
    dataset = Dataset.from_dict({"photo": pictures}, features=Features({"photo": Image()})).to_iterable_dataset()
    run = trainer(tiny_config(), dataset)
    run.train()
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert record["dataset"]["num_images"] is None
    assert record["dataset"]["config"]["resolution"] == 8
    assert "a stream" in (tmp_path / "run" / "README.md").read_text()


def test_training_called_again_keeps_the_metrics_there_are(tiny_config, tmp_path):
    run = trainer(tiny_config())
    run.train()
    before = rows(tmp_path / "run")
    run.train()
    assert rows(tmp_path / "run") == before and len(before) == 4


def test_a_tensor_will_do_as_a_dataset(tiny_config, tmp_path):
    trainer(tiny_config(), tiny_images().images).train()
    assert rows(tmp_path / "run")


def interrupt_at(run, step, number=signal.SIGINT):
    one_step = run.step

    def interrupting():
        if run.state.progress.step == step:
            os.kill(os.getpid(), number)
        return one_step()

    run.step = interrupting


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_everything_and_says_where(number, tiny_config, tmp_path, capsys):
    long = {"max_train_steps": 9, "logging_steps": 4, "validation_steps": 100, "checkpointing_steps": 100}
    run = trainer(tiny_config(**long))
    interrupt_at(run, 2, number)
    handler = signal.getsignal(number)
    pipeline = run.train()
    assert run.interrupted == number
    assert signal.getsignal(number) == handler
    said = capsys.readouterr().err
    assert 'Interrupted at step 3. To resume: the same, with resume_from_checkpoint="latest"' in said
    assert str(tmp_path / "run") in said
    assert rows(tmp_path / "run") == [], "the next report is of all four steps, as if nothing had happened"
    loaded = WGANPipeline.from_pretrained(tmp_path / "run")
    assert torch.equal(loaded.generator.layers[0].weight, pipeline.generator.layers[0].weight)

    trainer(tiny_config(**long, resume_from_checkpoint="latest")).train()
    trainer(tiny_config(**{**long, "output_dir": str(tmp_path / "whole")})).train()
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.fixture
def ordinary_interrupts():
    """A process started in the background of a shell ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_stops_at_once(tiny_config, ordinary_interrupts):
    run = trainer(tiny_config())
    one_step = run.step

    def interrupting():
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not ordinary_interrupts:  # two at once would be one
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        return one_step()

    run.step = interrupting
    with pytest.raises(KeyboardInterrupt):
        run.train()


def test_a_loss_that_is_no_longer_finite_stops_the_run_and_keeps_what_there_is(tiny_config, tmp_path):
    run = trainer(tiny_config(max_train_steps=10))
    one_step = run.step

    def poisoned():
        if run.state.progress.step == 5:
            run.generator.layers[0].weight.data.fill_(float("nan"))
        return one_step()

    run.step = poisoned
    with pytest.raises(FloatingPointError, match="fake_score is nan at step 6: lower generator_learning_rate"):
        run.train()
    assert (tmp_path / "run" / "checkpoint-000004" / "progress.json").is_file()
    assert rows(tmp_path / "run")[-1]["step"] == 5


def test_a_folder_that_is_not_empty_is_left_alone(tiny_config, tmp_path):
    trainer(tiny_config()).train()
    before = weights(tmp_path / "run")
    with pytest.raises(InputError, match=r"output_dir='.*run': is not empty; .*--overwrite_output_dir"):
        trainer(tiny_config(seed=1))
    assert weights(tmp_path / "run") == before
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        trainer(tiny_config(output_dir=str(tmp_path / "file")))


def test_overwriting_replaces_a_run_and_nothing_else(tiny_config, tmp_path):
    trainer(tiny_config(validation_steps=1)).train()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    trainer(tiny_config(overwrite_output_dir=True, max_train_steps=2, seed=1)).train()
    grids = [f"step-{step:06d}.png" for step in (0, 1, 2)]
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == ["real.png", *grids]
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-000002"]
    assert len(rows(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_latest_begins_a_run_that_has_no_checkpoint_yet_and_resumes_it_later(tiny_config, tmp_path, capsys):
    config = tiny_config(resume_from_checkpoint="latest", checkpointing_steps=3)
    trainer(tiny_config(output_dir=str(tmp_path / "whole"), checkpointing_steps=3)).train()
    begun = trainer(config).iterate()
    next(begun), next(begun)  # killed before its first checkpoint
    begun.close()
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    again = trainer(config)
    steps = again.iterate()
    next(steps), next(steps), next(steps)
    assert again.save_checkpoint().name == "checkpoint-000003"
    steps.close()
    capsys.readouterr()
    trainer(config).train()
    assert "begins at step 0" not in capsys.readouterr().err
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_latest_does_not_replace_a_model_without_checkpoints(tiny_config, tmp_path):
    trainer(tiny_config()).train()
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        shutil.rmtree(folder)
    before = weights(tmp_path / "run")
    with pytest.raises(InputError, match=r"there is no checkpoint in .*, and its model is not replaced"):
        trainer(tiny_config(resume_from_checkpoint="latest"))
    assert weights(tmp_path / "run") == before


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda c: trainer(c(), generator=tiny_generator(sample_size=16)), "the generator makes"),
        (lambda c: trainer(c(), critic=tiny_critic(in_channels=3)), "the critic takes"),
        (lambda c: trainer(c(), tiny_images(channels=3)), r"dataset with images of shape \(3, 8, 8\)"),
        (lambda c: trainer(c(train_batch_size=25)), "train_batch_size=25"),
        (lambda c: trainer(c(mixed_precision="fp16")), "mixed_precision='fp16': not available on cpu"),
        (lambda c: trainer(c(), [1, 2, 3]), "dataset of type list"),
        (lambda c: trainer(c(resume_from_checkpoint="nowhere")), "resume_from_checkpoint='nowhere'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(make, message, tiny_config, tmp_path):
    if "on cpu" in message and torch.cuda.is_available():
        pytest.skip("this machine can train in float16")
    with pytest.raises(InputError, match=message):
        make(tiny_config)
    assert not (tmp_path / "run").exists()
