import numpy as np
import pytest
import torch

from hf_wgan import ImageSet, InputError
from hf_wgan.metrics import classifier, contrastive
from hf_wgan.metrics.classifier import (
    RECORD,
    SmallClassifier,
    class_entropy,
    class_shares,
    extract,
    load_classifier,
    load_or_train_classifier,
    reduced,
    split_off_held_out,
    train_classifier,
)
from hf_wgan.metrics.contrastive import ContrastiveNetwork, load_or_train_contrastive
from hf_wgan.metrics.features import load_feature_extractor


def squares(num_images, seed, labelled=True):
    """Noise with a bright square in one of three corners, which is the label."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 60, (num_images, 1, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.arange(num_images) % 3
    for image, (row, column) in zip(images, [((0, 0), (0, 20), (20, 0))[label] for label in labels]):
        image[0, row : row + 12, column : column + 12] += 150
    return ImageSet(images, labels=labels if labelled else None)


@pytest.fixture(scope="module")
def trained():
    return train_classifier(squares(120, seed=0), squares(60, seed=1), num_epochs=4)


def test_the_entropy_of_classes_is_1_where_they_are_as_common_and_0_where_there_is_one():
    assert class_shares(np.array([0, 0, 2, 0]), 4).tolist() == [0.75, 0, 0.25, 0]
    assert class_entropy(np.full(10, 0.1)) == pytest.approx(1)
    assert class_entropy(np.array([0, 1.0, 0])) == 0


def test_the_classifier_learns_and_says_how_well(trained):
    network, accuracy = trained
    assert accuracy > 0.95
    assert not network.training
    features, classes = extract(network, torch.zeros(7, 1, 32, 32))
    assert features.shape == (7, classifier.NUM_FEATURES)
    assert classes.shape == (7,)


def test_without_held_out_images_a_tenth_is_left_out_of_training(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        classifier, "train_classifier", lambda *args: seen.append(args[:2]) or (SmallClassifier(1, 3).eval(), 0.5)
    )
    load_or_train_classifier(tmp_path, squares(40, seed=0))
    (trained_on, held_out), whole = seen[0], squares(40, seed=0)
    assert (len(trained_on), len(held_out)) == (36, 4)
    assert torch.equal(held_out.images, whole.images[::10]) and torch.equal(held_out.labels, whole.labels[::10])
    assert len({image.numpy().tobytes() for image in [*trained_on.images, *held_out.images]}) == 40


def test_a_classifier_is_loaded_with_its_accuracy_and_a_folder_without_one_is_named(tmp_path):
    network, accuracy = load_or_train_classifier(tmp_path / "one", squares(12, 0), squares(6, 1), num_epochs=1)
    again, same = load_classifier(tmp_path / "one")
    assert same == accuracy and torch.equal(again.scores.weight, network.scores.weight)
    with pytest.raises(InputError, match=r"none holds no classifier .*: hf-wgan train-classifier --output_dir .*none$"):
        load_classifier(tmp_path / "none")


def test_the_classifier_is_trained_once_a_folder_and_anew_for_other_images(tmp_path, monkeypatch):
    one, held_out = squares(12, seed=0), squares(6, seed=1)
    network, accuracy = load_or_train_classifier(tmp_path, one, held_out, num_epochs=1)
    assert list(tmp_path.glob("*.safetensors"))

    made = []
    train = train_classifier
    monkeypatch.setattr(classifier, "train_classifier", lambda *args: made.append(args) or train(*args))
    again, same_accuracy = load_or_train_classifier(tmp_path, one, held_out, num_epochs=1)
    assert not made
    assert same_accuracy == accuracy
    images = torch.rand(4, 1, 32, 32)
    assert torch.equal(again(images)[0], network(images)[0])
    load_or_train_classifier(tmp_path, squares(12, seed=5), held_out, num_epochs=1)
    assert len(made) == 1


def test_the_same_images_with_other_labels_have_features_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "MIN_STEPS", 2)
    images = squares(24, seed=0)
    others = ImageSet(images.images, labels=(images.labels == 0).long())
    names = [load_feature_extractor("classifier", of, cache_dir=tmp_path).name for of in (images, others, images)]
    assert "of 3 classes" in names[0] and "of 2 classes" in names[1] and names[2] == names[0]


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_record_of_a_classifier_is_one_line_with_the_remedy(content, tmp_path):
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(InputError, match=rf"{RECORD}: is damaged.*; remove it, and the network is trained again$"):
        load_or_train_classifier(tmp_path, squares(60, 0), squares(30, 1))
    with pytest.raises(InputError, match=f"holds no classifier .*{RECORD}: is damaged.*; to train one"):
        load_classifier(tmp_path)


def test_a_saved_classifier_is_of_the_labels_of_training_and_held_out_images(tmp_path, monkeypatch):
    made = []
    network = SmallClassifier(1, 3).eval()
    monkeypatch.setattr(classifier, "train_classifier", lambda *args: made.append(args) or (network, 0.5))
    images, held_out = squares(12, seed=0), squares(6, seed=1)
    other, other_held_out = (ImageSet(of.images, labels=of.labels.flip(0)) for of in (images, held_out))
    for arguments in [(images, held_out)] * 2 + [(other, held_out)] * 2 + [(other, other_held_out)] * 2:
        load_or_train_classifier(tmp_path, *arguments)
    assert len(made) == 3


def test_the_seed_decides_and_the_random_state_is_left_alone():
    before = torch.get_rng_state()
    networks = [train_classifier(squares(12, 0), squares(6, 1), seed, num_epochs=1)[0] for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    first, second, third = (network.scores.weight for network in networks)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_images_without_labels_are_refused():
    with pytest.raises(InputError, match="no labels"):
        train_classifier(squares(6, 0, labelled=False), squares(6, 1))


def test_colour_images_have_features_too():
    network = SmallClassifier(channels=3, num_classes=5).eval()
    assert extract(network, torch.zeros(2, 3, 32, 32))[0].shape == (2, classifier.NUM_FEATURES)


def named(images, names):
    """The squares' classes a, b and c by other numbers; those that are left out of the names have no label."""
    return ImageSet(images.images, labels=images.labels, label_names=["a", "b", "c"]).relabelled(names)


def test_held_out_images_are_numbered_as_the_training_images(tmp_path, monkeypatch):
    images, held_out = named(squares(120, 0), ["a", "b", "c"]), named(squares(60, 1), ["c", "b"]).labelled()
    _, accuracy = load_or_train_classifier(tmp_path / "classifier", images, held_out, num_epochs=4)
    assert accuracy > 0.95
    monkeypatch.setattr(contrastive, "NUM_STEPS", 20)
    _, figures = load_or_train_contrastive(tmp_path / "contrastive", images, held_out)
    assert figures["linear_probe"] > 0.9


def test_images_without_a_label_are_left_out(tmp_path, short_training):
    images, held_out = named(squares(120, 0), ["a", "b"]), named(squares(60, 1), ["b", "a"])
    assert images.labels is None and held_out.labels is None
    network, accuracy = load_or_train_classifier(tmp_path, images, held_out, num_epochs=4)
    assert network.config.num_classes == 2 and accuracy > 0.95
    extractor = load_feature_extractor("auto", images, held_out, cache_dir=tmp_path)
    assert extractor.name.startswith("classifier of 2 classes")


def test_held_out_images_without_labels_leave_a_tenth_to_measure_the_accuracy_on(tmp_path):
    _, accuracy = load_or_train_classifier(tmp_path, squares(120, 0), squares(60, 1, labelled=False), num_epochs=4)
    assert accuracy > 0.95


def test_held_out_images_of_one_class_measure_the_accuracy_too(tmp_path):
    images, held_out = squares(120, 0), squares(60, 1)
    alone = held_out.subset(held_out.labels.numpy() == 1, "alone")
    assert load_or_train_classifier(tmp_path, images, alone, num_epochs=4)[1] > 0.95


def test_the_only_image_of_a_class_is_trained_on():
    images = squares(21, 0)
    alone = ImageSet(images.images, labels=torch.tensor([2, *[0, 1] * 10]))
    held_out, others = split_off_held_out(alone)
    assert len(held_out) == 2 and others.labels.unique().tolist() == [0, 1, 2]
    held_out, others = split_off_held_out(ImageSet(images.images, labels=torch.arange(21)))
    assert (len(held_out), len(others)) == (1, 20)


@pytest.mark.parametrize(("shape", "seen"), [((64, 64), (64, 64)), ((128, 128), (64, 64)), ((96, 256), (24, 64))])
@pytest.mark.parametrize("network", [SmallClassifier(3, 5), ContrastiveNetwork(3)], ids=["classifier", "contrastive"])
def test_large_images_are_reduced(network, shape, seen):
    sizes = []
    handle = network.features[0].register_forward_pre_hook(lambda layer, inputs: sizes.append(inputs[0].shape[-2:]))
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    network.eval()(images)
    handle.remove()
    assert sizes == [seen]
    factor = shape[1] // seen[1]
    assert torch.allclose(reduced(images), torch.nn.functional.avg_pool2d(images, factor), atol=1e-6)


@pytest.mark.parametrize("seconds, said", [(30.0, "is trained first, once: about 63 seconds.\n"), (5.0, "")])
def test_a_long_training_says_how_long_it_takes(seconds, said, monkeypatch, capsys):
    clock = iter([0.0, seconds])  # for 10 of 31 steps
    monkeypatch.setattr(classifier, "time", type("Clock", (), {"monotonic": lambda: next(clock)}))
    train_classifier(squares(12, 0), squares(6, 1), num_epochs=30)
    error = capsys.readouterr().err
    assert error.endswith(said) and bool(error) == bool(said)
