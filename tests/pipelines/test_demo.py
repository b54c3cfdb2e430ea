"""The demo without a browser: what it makes, what it answers, where it listens."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import psutil
import pytest
from conftest import tiny_critic, tiny_generator
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from processes import free_port
from served import served

from hf_wgan import InputError, WGANPipeline
from hf_wgan.cli.demo import demo
from hf_wgan.cli.generate import generate
from hf_wgan.pipelines.demo import (
    ALL_CLASSES,
    MAX_IMAGES,
    MAX_REQUEST_BYTES,
    MAX_SEED,
    MAX_WAITING,
    NO_TRUNCATION,
    interpolation,
    sample,
    zipped,
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo.py"
NAMES = ["cat", "dog", "owl"]


def make(num_classes=None, critic=True, **options):
    generator = tiny_generator(num_classes=num_classes, **options)
    return WGANPipeline(generator, tiny_critic(num_classes=num_classes) if critic else None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "wgan-tiny"
    make().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("num_classes", "truncation", "label", "options"),
    [
        (None, NO_TRUNCATION, ALL_CLASSES, []),
        (None, 0.7, ALL_CLASSES, ["--truncation", "0.7"]),
        (3, NO_TRUNCATION, ALL_CLASSES, []),
        (3, 1, 1, ["--truncation", "1", "--class_labels", "dog"]),
    ],
)
def test_a_seed_means_the_images_of_the_command_line(num_classes, truncation, label, options, tmp_path):
    pipeline = make(num_classes, class_names=NAMES if num_classes else None)
    pipeline.save_pretrained(tmp_path / "model")
    arguments = [str(tmp_path / "model"), "--num_images", "7", "--seed", "5", *options]
    assert generate([*arguments, "--output_dir", str(tmp_path / "images")]) == 0
    made = [image for image, _ in sample(pipeline, 5, 7, truncation, label)]
    with zipfile.ZipFile(io.BytesIO(zipped(made))) as archive:
        assert archive.namelist() == [f"{number:05d}.png" for number in range(7)]
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "images" / name).read_bytes()


@pytest.mark.parametrize(
    ("num_classes", "label", "options"), [(None, None, []), (3, ALL_CLASSES, []), (3, 1, ["--class_labels", "dog"])]
)
@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_a_video_is_that_of_the_command_line(kind, num_classes, label, options, tmp_path):
    pipeline = make(num_classes, class_names=NAMES if num_classes else None)
    pipeline.save_pretrained(tmp_path / "model")
    arguments = [str(tmp_path / "model"), "--video", kind, "--num_images", "2", "--seed", "5", "--num_frames", "9"]
    assert generate([*arguments, *options, "--output_dir", str(tmp_path / "video")]) == 0
    made = interpolation(pipeline, 5, 6, 9, NO_TRUNCATION, label, kind)
    assert made == (tmp_path / "video" / f"walk.{kind}").read_bytes()


@pytest.mark.parametrize(
    ("scale", "formatted"), [(1, "{:.2f}"), (1e-3, "{:.5f}"), (1e4, "{:.0f}")], ids=["ones", "thousandths", "thousands"]
)
def test_under_an_image_stand_its_seed_and_what_the_critic_thinks_of_it(scale, formatted, monkeypatch):
    pipeline = make()
    score = pipeline.score
    monkeypatch.setattr(pipeline, "score", lambda *given: score(*given).sub(5).mul(scale))
    images, captions = zip(*sample(pipeline, 5, 3, NO_TRUNCATION, ALL_CLASSES))
    scores = pipeline.score(list(images)).tolist()
    assert list(captions) == [f"seed {5 + index}\nscore {formatted.format(each)}" for index, each in enumerate(scores)]


def test_without_a_critic_there_are_no_scores():
    [(_, caption)] = sample(make(critic=False), 5, 1, NO_TRUNCATION, ALL_CLASSES)
    assert caption == "seed 5"


def test_scores_are_those_of_the_asked_class():
    pipeline = make(3)
    pipeline.critic.class_embedding.weight.data.normal_()
    captions = {caption for label in range(3) for _, caption in sample(pipeline, 5, 1, NO_TRUNCATION, label)}
    assert len(captions) == 3


MISTAKES = [
    ((-1, 3, 4, ALL_CLASSES), f"seed=-1: must be a whole number from 0 to {MAX_SEED}"),
    ((1.5, 3, 4, ALL_CLASSES), "seed=1.5: must be a whole number"),
    (("abc", 3, 4, ALL_CLASSES), "seed='abc': must be a whole number"),
    ((None, 3, 4, ALL_CLASSES), "seed is empty: must be a whole number"),
    ((True, 3, 4, ALL_CLASSES), "seed=True: must be a whole number"),
    ((0, 10**9, 4, ALL_CLASSES), f"images=1000000000: must be a whole number from 1 to {MAX_IMAGES}"),
    ((0, 0, 4, ALL_CLASSES), "images=0: must be"),
    ((0, 3, 0, ALL_CLASSES), "truncation=0: must be more than 0 and at most 4, which is none"),
    ((0, 3, "much", ALL_CLASSES), "truncation='much': must be more than 0"),
    ((0, 3, 4, 1), "class_labels=1: the model has no classes"),
    ((0, 3, 4, [1]), "label=[1]: must be a class, by number or name"),
    ((0, "<b>" * 99, 4, ALL_CLASSES), "images='&lt;b&gt;&lt;b&gt;"),
]


def test_a_mistake_is_answered_with_a_message_that_says_what_would_be_right(tmp_path, capfd):
    with served(make(), tmp_path / "cache") as address:
        client = Client(address, verbose=False, download_files=str(tmp_path / "downloads"))
        for values, says in MISTAKES:
            with pytest.raises(AppError) as caught:
                client.predict(*values, api_name="/images")
            assert says in str(caught.value) and len(str(caught.value)) < 200
        for values, says in [
            ((0, -1, 9, 4, None, "gif"), "to_seed=-1: must be a whole number"),
            ((0, 1, 1, 4, None, "gif"), "frames=1: must be a whole number from 2 to 240"),
            ((0, 1, 9, 4, None, "../exe"), "kind='../exe': must be gif or webp"),
        ]:
            with pytest.raises(AppError) as caught:
                client.predict(*values, api_name="/video")
            assert says in str(caught.value)
        images, archive = client.predict(0, 3, 4, ALL_CLASSES, api_name="/images")
        assert len(images) == 3 and Path(archive).name == "images.zip", "and the page goes on"
        client.close()
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err


def post(url, body, **headers):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:  # the server does not wait for the end of what it refuses
        return 413


def test_requests_beyond_the_queue_are_refused_until_others_are_answered(tmp_path, monkeypatch):
    pipeline = make()
    is_busy = threading.Event()
    interpolate = pipeline.interpolate
    monkeypatch.setattr(
        pipeline, "interpolate", lambda *given, **options: is_busy.wait() and interpolate(*given, **options)
    )
    with served(pipeline, tmp_path / "files") as url:
        body = json.dumps({"data": [0, 1, 2, 4, None, "gif"]}).encode()
        answers = [post(f"{url}gradio_api/call/video", body) for _ in range(MAX_WAITING + 20)]
        assert set(answers) == {200, 503} and answers.count(200) <= MAX_WAITING + 2, "those that run are not waiting"
        is_busy.set()
        client = Client(url, verbose=False, download_files=str(tmp_path / "downloads"))
        while pending(url):
            time.sleep(0.1)
        images, _ = client.predict(0, 3, 4, ALL_CLASSES, api_name="/images")
        assert len(images) == 3, "the next visitor is served"
        client.close()


def pending(url):
    with urllib.request.urlopen(f"{url}gradio_api/queue/status", timeout=60) as answer:
        return json.load(answer)["queue_size"]


def test_uploads_and_large_requests_are_refused(tmp_path):
    with served(make(), tmp_path / "files") as url:
        boundary = {"Content-Type": "multipart/form-data; boundary=x"}
        for size in (100, 2 * MAX_REQUEST_BYTES):
            part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            assert post(f"{url}gradio_api/upload", part + bytes(size) + b"\r\n--x--\r\n", **boundary) == 413
        assert not [path for path in (tmp_path / "files").rglob("*") if path.name == "a.png"]
        for path in ("call/images", "run/images", "queue/join"):
            assert post(f"{url}gradio_api/{path}", b'{"data": ["' + b"x" * MAX_REQUEST_BYTES + b'"]}') == 413
        endless = iter([b"x" * 2**16] * 100)
        request = urllib.request.Request(f"{url}gradio_api/call/images", endless, {"Content-Type": "application/json"})
        with pytest.raises(OSError):
            urllib.request.urlopen(request, timeout=60)
        assert next(endless, None) is not None or pending(url) == 0
        client = Client(url, verbose=False, download_files=str(tmp_path / "downloads"))
        assert len(client.predict(0, 3, 4, ALL_CLASSES, api_name="/images")[0]) == 3
        client.close()


def test_classes_are_checked_by_the_pipeline():
    with pytest.raises(InputError, match="class_labels=3: must be a number from 0 to 2"):
        sample(make(3), 0, 1, NO_TRUNCATION, 3)


def test_the_command_listens_on_loopback_only_and_ends_without_a_trace(model, tmp_path, capsys):
    port = free_port()
    environment = {**os.environ, "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "true", "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, SCRIPT, model, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as `nohup … &` does
    )
    try:
        address = f"http://127.0.0.1:{port}/"
        assert process.stdout.readline() == f"Serving {model} at {address} until Ctrl-C.\n"
        listening = [each for each in psutil.Process(process.pid).net_connections("inet") if each.status == "LISTEN"]
        assert {(each.laddr.ip, each.laddr.port) for each in listening} == {("127.0.0.1", port)}
        client = Client(address, verbose=False, download_files=str(tmp_path / "downloads"))
        video, _ = client.predict(0, 1, 9, 4, None, "gif", api_name="/video")
        assert Image.open(video).n_frames > 2
        client.close()
        assert demo([model, "--port", str(port)]) == 2
        assert f"port={port}: is in use; name another, or leave it out" in capsys.readouterr().err
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Stopped at once." and "Traceback" not in said
    assert not list(tmp_path.glob("tmp*")), "no files are left behind"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{missing}"], "is neither a pipeline folder nor a model that can be loaded from the Hub"),
        (["{empty}"], "holds no pipeline: there is no model_index.json in it"),
        (["{model}", "--port", "0"], "port=0: must be a whole number at least 1 and at most 65535"),
        (["{model}", "--port", "http"], "port='http': must be a whole number"),
        (["{model}", "--host", "192.0.2.1"], "host='192.0.2.1', port=None: cannot be listened on"),
        ([], "the following arguments are required: model"),
    ],
)
def test_bad_input_to_the_command_is_one_clear_line(arguments, message, model, tmp_path, capsys):
    places = {"model": model, "missing": tmp_path / "missing", "empty": tmp_path}
    assert demo([argument.format(**places) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]


def test_without_gradio_the_command_says_what_brings_it(model, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert demo([model]) == 2
    assert 'pip install "hf_wgan[demo]" installs it' in capsys.readouterr().err
