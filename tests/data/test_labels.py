"""Labels are names: whatever a column holds becomes consecutive numbers and a name for each."""

import datetime
import math

import numpy as np
import pytest
import torch

from hf_wgan import ImageSet, InputError
from hf_wgan.data.labels import census, labels_of, printable


@pytest.mark.parametrize(
    "values, names, numbers",
    [
        (["cat", "dog", "cow", "cat"], ["cat", "cow", "dog"], [0, 2, 1, 0]),
        ([1997, 2010, 2003], ["1997", "2003", "2010"], [0, 2, 1]),
        ([1, 2, 3], ["1", "2", "3"], [0, 1, 2]),
        ([123456789, 5, 7], ["5", "7", "123456789"], [2, 0, 1]),
        (["10", "9", "2", "0"], ["0", "2", "9", "10"], [3, 2, 1, 0]),
        (["b10", "b9"], ["b10", "b9"], [0, 1]),
        (["07", "7"], ["07", "7"], [0, 1]),
        ([True, False], ["False", "True"], [1, 0]),
        ([0.0, 2.0, 1.0], ["0", "1", "2"], [0, 2, 1]),
        ([0.5, -0.25], ["-0.25", "0.5"], [1, 0]),
        ([1, -1], ["-1", "1"], [1, 0]),
        ([1.0, -1.0], ["-1", "1"], [1, 0]),
        (["1", "-1"], ["-1", "1"], [1, 0]),
        ([-2, -1, 3], ["-2", "-1", "3"], [0, 1, 2]),
        ([0, 1, -1], ["0", "1"], [0, 1, -1]),
        ([4, -1], ["4"], [0, -1]),
        (["0", "1", "-1"], ["0", "1"], [0, 1, -1]),
        ([3, None, 5], ["3", "5"], [0, -1, 1]),
        ([1.0, math.nan, np.float32("nan")], ["1"], [0, -1, -1]),
        ([" cat\n", "", "  ", "cat"], ["cat"], [0, -1, -1, 0]),
        ([b"dog", b"cat"], ["cat", "dog"], [1, 0]),
        ([np.int8(3), np.uint64(2)], ["2", "3"], [1, 0]),
        ([np.array(3), np.array(2)], ["2", "3"], [1, 0]),
        (["nan", "inf", "1"], ["1", "inf", "nan"], [2, 1, 0]),
        ([datetime.date(2024, 1, 2), datetime.date(2023, 1, 1)], ["2023-01-01", "2024-01-02"], [1, 0]),
        (["only"], ["only"], [0]),
        (["caf\udce9", "x"], ["caf\N{REPLACEMENT CHARACTER}", "x"], [0, 1]),
    ],
)
def test_values_are_numbered_in_their_order_and_keep_their_names(values, names, numbers):
    labels = labels_of(values, "label")
    assert labels.names == names
    assert labels.numbers.tolist() == numbers
    assert labels.numbers.dtype == np.int64


@pytest.mark.parametrize("values", [[None, None], [-1, -1], [math.nan], ["", " "], [-1.0, None]])
def test_a_column_without_a_label_is_no_labels(values):
    assert labels_of(values, "label") is None


def test_declared_names_keep_their_numbers():
    labels = labels_of([2, 0, -1, None, 7], "label", ["a", "b", "c"])
    assert labels.names == ["a", "b", "c"]
    assert labels.numbers.tolist() == [2, 0, -1, -1, -1]


@pytest.mark.parametrize("value, kind", [([0, 1], "lists"), ({"a": 1}, "records"), (np.zeros(3), "arrays")])
def test_several_labels_for_an_image_are_refused(value, kind):
    with pytest.raises(InputError, match=f"label_column='label': holds {kind}; a label must be"):
        labels_of([value, value], "label")


def test_missing_labels_and_rare_classes_are_said():
    numbers = np.array([0] * 100 + [1] * 100 + [2] * 3 + [-1] * 4)
    assert census(numbers, ["a", "b", "c", "d"]) == [
        "4 of 207 images have no label (none, NaN, empty, or -1).",
        "2 of 4 classes have very few images: d (0), c (3).",
    ]
    assert census(np.zeros(1, int), ["a"]) == []


def test_names_are_shown_without_terminal_escapes():
    assert printable("a\x1b[31mb\nc") == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}c"
    assert printable("写真 é") == "写真 é"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1, 0], r"labels of type list: must be a tensor \(3,\) of whole numbers"),
        (np.zeros(3, np.int64), "labels of type ndarray"),
        (torch.zeros(3, 1), r"labels of shape \(3, 1\) for 3 images"),
        (torch.tensor([0.0, 0.5, 1.0]), "labels with 0.5: must be whole numbers from 0"),
        (torch.tensor([0.0, 1.0, math.nan]), "labels with nan"),
        (torch.tensor([0, -2, 1]), "labels with -2: .*or -1 for no label"),
        (torch.tensor([0, 1, 2]), "labels with 2: must be whole numbers from 0 to 1, the last of label_names"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        ImageSet(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), labels=labels, label_names=["a", "b"])


@pytest.mark.parametrize("labels", [[True, False, True], [1.0, 0.0, 1.0], [1, 0, -1]])
def test_labels_of_any_type_of_whole_numbers_are_classes(labels):
    images = ImageSet(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), labels=torch.tensor(labels), label_names=["a", "b"])
    assert images.label_numbers.tolist() == labels


def test_images_of_another_type_are_named():
    with pytest.raises(InputError, match=r"images of type ndarray: must be a torch\.uint8 tensor"):
        ImageSet(np.zeros((3, 1, 8, 8), np.uint8))
