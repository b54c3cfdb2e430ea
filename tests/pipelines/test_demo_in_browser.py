"""The demo as a person meets it: in a real browser, without a window.

pytest tests/pipelines/test_demo_in_browser.py --model wgan-digits --screenshots docs
"""

import io
import shutil
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import tiny_critic, tiny_generator
from PIL import Image, ImageChops
from playwright.sync_api import Error, TimeoutError, sync_playwright
from served import served

from hf_wgan import WGANPipeline

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]  # a container's root has no sandbox
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
DESK, PHONE = {"width": 1280, "height": 960}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        try:
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        except Error as error:
            pytest.skip(f"no browser: apt-get install chromium, or playwright install chromium ({error.message[:200]})")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(request, tmp_path_factory):
    folder = request.config.getoption("--model")
    pipeline = WGANPipeline.from_pretrained(folder) if folder else WGANPipeline(tiny_generator(), tiny_critic())
    with served(pipeline, tmp_path_factory.mktemp("cache"), Path(folder or "wgan-tiny").name) as address:
        yield address


@pytest.fixture
def page(browser, address):
    """The page, loaded; at the end nothing may have been asked of any other host."""
    context = browser.new_context(viewport=DESK)
    context.set_default_timeout(120_000)  # on a busy machine
    page = context.new_page()
    hosts, faults = set(), []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).netloc))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    images(page)
    yield page
    context.close()
    assert hosts - {""} == {urlsplit(address).netloc} and not faults  # "" is of data within the page


def images(page, first="seed 0"):
    """What the page shows, once the first image is that of a seed: `PIL` images."""
    page.wait_for_function(
        """first => {
            const shown = [...document.querySelectorAll("#images img")]
            return shown.length && shown[0].alt.split("\\n")[0] === first && shown.every(each => each.complete)
        }""",
        arg=first,
    )
    places = [image.get_attribute("src") for image in page.locator("#images img").all()]
    return [Image.open(io.BytesIO(page.request.get(place).body())) for place in places]


def fill(page, name, value):
    page.get_by_role("spinbutton", name=name, exact=True).fill(str(value))


def click(page, name):
    page.get_by_role("button", name=name).click()


def click_until(page, name, sentence):
    """Gradio drops a click that comes while an earlier one is not quite done, though its message is there."""
    for attempts_left in reversed(range(10)):
        click(page, name)
        try:
            return page.get_by_text(sentence).wait_for(timeout=12_000)
        except TimeoutError:
            if not attempts_left:
                raise


def downloaded(page):
    with page.expect_download() as download:
        click(page, "Download")
    return Path(download.value.path()), download.value.suggested_filename


def same(ones, others):
    return [one.tobytes() for one in ones] == [other.tobytes() for other in others]


def test_another_seed_shows_other_images_the_same_seed_the_same_and_they_can_be_downloaded(page):
    first = images(page)
    assert len(first) == 24
    assert page.locator("#images .caption-label").first.inner_text().startswith("seed 0\nscore ")
    fill(page, "Seed", 7)
    click(page, "Generate")
    seventh = images(page, "seed 7")
    assert not same(first, seventh)
    assert same(first[7:], seventh[:17]), "each image has a seed of its own"
    fill(page, "Seed", 0)
    fill(page, "Images", 5)
    click(page, "Generate")
    again = images(page)
    assert same(again, first[:5])

    path, name = downloaded(page)
    with zipfile.ZipFile(path) as archive:
        assert name == "images.zip" and archive.namelist() == [f"{number:05d}.png" for number in range(5)]
        assert same([Image.open(archive.open(each)) for each in archive.namelist()], again)

    click(page, "Random seed")
    page.wait_for_function("!document.querySelector('#images img').alt.startsWith('seed 0\\n')")
    seed = page.get_by_role("spinbutton", name="Seed").input_value()
    assert not same(images(page, f"seed {seed}"), again)


def test_truncation_changes_the_images(page):
    first = images(page)
    fill(page, "number input for Truncation", 0.2)
    fill(page, "Seed", 1)
    click(page, "Generate")
    assert not same(images(page, "seed 1")[:23], first[1:])


def test_a_video_can_be_seen_and_downloaded(page):
    page.get_by_role("tab", name="Video").click()
    download = page.get_by_role("button", name="Download")
    assert download.is_disabled(), "there is none yet"
    fill(page, "To seed and back", 3)
    fill(page, "number input for Frames", 12)
    for kind in ("gif", "webp"):
        page.get_by_role("radio", name=kind).check()
        click(page, "Interpolate")
        page.locator(f"#video img[src$='walk.{kind}']").wait_for()
        path, name = downloaded(page)
        video = Image.open(path)
        assert name == f"walk.{kind}" and video.format == kind.upper() and 3 <= video.n_frames <= 12
        start = video.convert("L")
        video.seek(video.n_frames // 2)
        assert ImageChops.difference(start, video.convert("L")).getbbox(), "it moves"


def test_a_bad_seed_is_answered_with_a_message_and_the_images_stay(page, capfd):
    for seed, given in {"-1": "seed=-1", "1.5": "seed=1.5", "abc": "seed is empty"}.items():  # the box takes no text
        fill(page, "Seed", "")
        page.get_by_role("spinbutton", name="Seed").press_sequentially(seed)
        click_until(page, "Generate", f"{given}: must be a whole number from 0 to 4294967295")
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err + page.content()
    assert len(images(page)) == 24


def test_the_page_fits_a_desk_and_a_hand(page, request, tmp_path):
    folder = Path(request.config.getoption("--screenshots") or tmp_path)
    for name, size in {"demo": DESK, "demo_phone": PHONE}.items():
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
        for each in page.locator("#images button.thumbnail-item").all():
            image, caption = each.locator("img").bounding_box(), each.locator(".caption-label").bounding_box()
            assert image["width"] >= 80 and caption["y"] >= image["y"] + image["height"] - 1, "below, not upon it"
        page.screenshot(path=folder / f"{name}.png")
        assert Image.open(folder / f"{name}.png").size == (size["width"], size["height"])
