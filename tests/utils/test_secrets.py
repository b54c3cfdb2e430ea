"""What a recorded command and a card leave out."""

import shlex

import pytest

from hf_wgan.utils.secrets import without_credentials, without_local_paths

SECRET = "s3cr3tvalue00112233"


@pytest.mark.parametrize(
    "option",
    ["--hub_token", "--hub-token", "--token", "--api_key", "--wandb-api-key", "--aws_secret_access_key", "--password"],
)
def test_a_secret_option_is_removed_with_its_value(option):
    for words in ([option, SECRET], [f"{option}={SECRET}"], [option, f"-{SECRET}"]):
        assert without_credentials(["train", *words, "--seed", "1"]) == ["train", "--seed", "1"]
    assert without_credentials(["train", option, "--seed", "1"]) == ["train", "--seed", "1"], "a flag has no value"


@pytest.mark.parametrize(
    ("word", "public"),
    [
        (f"git+https://me:{SECRET}@example.com/me/repo.git@main", "git+https://example.com/me/repo.git@main"),
        (f"https://{SECRET}@example.com/a", "https://example.com/a"),
        (f"hf_wgan @ git+https://me:{SECRET}@example.com/a", "hf_wgan @ git+https://example.com/a"),
        (f"--proxy=http://me:{SECRET}@proxy:80", "--proxy=http://proxy:80"),
        (f"https://example.com/a?X-Amz-Signature={SECRET}&size=2", "https://example.com/a?size=2"),
        (f"https://example.com/a.zip?size=2&token={SECRET}", "https://example.com/a.zip?size=2"),
        (f"Authorization: Bearer {SECRET}", "Authorization: ***"),
        (f"hf_{SECRET}", "***"),
        (f"prefix:ghp_{SECRET}", "prefix:***"),
        (f"env HF_TOKEN=hf_{SECRET} hf-wgan train --hub_token {SECRET}", "env hf-wgan train"),
        (f"bash -c 'WANDB_API_KEY={SECRET} hf-wgan train'", "bash -c 'hf-wgan train'"),
    ],
)
def test_parts_of_a_word_are_removed(word, public):
    assert without_credentials(["run", word, "end"]) == ["run", public, "end"]


@pytest.mark.parametrize("assignment", ["HF_TOKEN", "WANDB_API_KEY", "PGPASSWORD", "A", "my_token", "password"])
def test_environment_assignments_are_removed(assignment):
    words = ["env", f"{assignment}={SECRET}", "docker", "-e", f"{assignment}={SECRET}", "image", "hf-wgan", "train"]
    assert without_credentials(words) == ["env", "docker", "image", "hf-wgan", "train"]


def test_a_value_with_spaces_is_removed_whole():
    assert without_credentials(["env", "WORDS=one two", f"my_token: {SECRET}", "train"]) == ["env", "train"]
    assert without_credentials(["sh", "-c", "WORDS='one two' train"]) == ["sh", "-c", "train"]


@pytest.mark.parametrize(
    "command",
    [
        "hf-wgan train --dataset_name zalando-datasets/fashion_mnist --train_batch_size 64 --output_dir 'my runs/a'",
        "accelerate launch --num_processes 2 scripts/train_wgan.py --dataset_name=me/data@v1 --learning_rate 1e-4",
        "uv run --with 'hf_wgan[train] @ git+https://github.com/me/hf_wgan' hf-wgan train --author 'It'\"'\"'s me'",
        "hf-wgan train --dataset_split 'train[:50%]' --class_labels a,b --features classifier:runs/c",
        "hf-wgan push hf_wgan_digits --commit_message 'Say it with a key word'",
    ],
)
def test_a_command_without_credentials_is_unchanged(command):
    assert without_credentials(shlex.split(command)) == shlex.split(command)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/me/photos", "photos"),
        ("/home/me/my photos/", "my photos"),
        ("--data=/a/b", "--data=b"),
        ("classifier:/a/b", "classifier:b"),
        ("['/a/b', '~/c/d', '../e/f']", "['b', 'd', 'f']"),
        (r"C:\Users\me\photos", "photos"),
        (r"\\server\share\photos", "photos"),
        ("file:///a/b", "b"),
        ("zip://x.png::/a/b.zip", "b.zip"),
        ("features: /a/b, seed: 0", "features: b, seed: 0"),
        *((text, text) for text in ("me/photos", "runs/a", "https://a.org/b/c", "N/A", "3 / 4", "a/b/../c", "/", "")),
        *((text, text) for text in ("hf://datasets/me/a", "float32/float16", "~", "..", "train[:50%]")),
    ],
)
def test_only_the_last_part_of_a_local_path_remains(text, public):
    assert without_local_paths(text) == public
