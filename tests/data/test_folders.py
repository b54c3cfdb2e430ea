"""What is in a folder is what is trained on: every file is an image that is used, or is counted under a reason."""

import gc
import json
import os
import struct
import sys
import threading
import time
import zipfile
import zlib

import pytest
from conftest import pictures
from PIL import Image

from hf_wgan import InputError, load_images
from hf_wgan.data import DataConfig, StreamedBatches
from hf_wgan.data.decode import Preprocessing, decode_or_error
from hf_wgan.data.folders import open_folder

AWKWARD = [
    "train.png", "crash test.png", "no-split.PNG", "dev.jpeg", "eval 01.webp", "val.bmp", "cat[1].png", "{a,b}.png",
    "50%.png", "#1.png", "what?.png", "star*.png", "写真.png", "a::b.png", "x\\y.png", "-rf.png", " .png", "a\nb.png",
    "e\u0301.png", "quote's \"x\".png", "$HOME.png", "semi;colon.png", "pi|pe.png", "dots.in.name.png", "UPPER.JPG",
    "escape\x1b[31m.png", "tab\t.png", "x.tar.png", "a.txt.gif", "long" + "g" * 200 + ".png",
]  # fmt: skip
FORMATS = [
    "png", "jpg", "jfif", "webp", "avif", "gif", "bmp", "tif", "tiff", "ppm", "tga", "jp2", "pcx", "sgi", "qoi", "dib",
    "mpo",
]  # fmt: skip


def load(folder, **options):
    return load_images(DataConfig(**{"train_data_dir": folder and str(folder), "resolution": 8, **options}))


def put(path, seed=0, form="png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures(1, seed=seed)[0].save(path, form)
    return path


def files_below(folder):
    """Everything that is no folder, the links among them."""
    count = 0
    for path, folders, files in os.walk(folder):
        count += len(files) + sum(os.path.islink(os.path.join(path, each)) for each in folders)
    return count


def test_sixty_awkward_files_are_used_or_counted_by_reason(tmp_path, capsys):
    root, elsewhere = tmp_path / "photos [2024]", tmp_path / "elsewhere"
    form_of = {"jpg": "jpeg", "jfif": "jpeg", "tif": "tiff", "mpo": "mpo", "tga": "tga", "jp2": "jpeg2000"}
    for number, name in enumerate(AWKWARD):
        put(root / "names" / name, number)
    for number, extension in enumerate(FORMATS):
        put(root / "formats" / f"image.{extension}", 100 + number, form_of.get(extension, extension))
    used = len(AWKWARD) + len(FORMATS)
    put(root / "without_extension", 200)
    put(root / "wrong.dat", 201, "jpeg")
    os.rename(put(root / "plain.png", 202), os.path.join(os.fsencode(root), b"caf\xe9.png"))
    used += 3
    # Links, each followed once.
    put(elsewhere / "cow" / "one.png", 203)
    put(elsewhere / "single.png", 204)
    (root / "cow").symlink_to(elsewhere / "cow")
    (root / "single.png").symlink_to(elsewhere / "single.png")
    used += 2
    (root / "again.png").symlink_to(root / "names" / "train.png")
    (root / "loop").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "cow again").symlink_to(elsewhere / "cow")
    (root / "broken.png").symlink_to(root / "nowhere")
    (root / "self").symlink_to(root / "self")
    # What is no image.
    whole = (root / "names" / "train.png").read_bytes()
    (root / "truncated.png").write_bytes(whole[:-30])
    (root / "empty.png").write_bytes(b"")
    (root / "page.jpg").write_bytes(b"<html>404</html>")
    (root / "postscript.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    (root / "drawing.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    (root / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(2000))
    (root / "camera.NEF").write_bytes(b"II*\0" + bytes(100))
    (root / "P3 caption.txt").write_text("P3 is no picture")
    (root / "Thumbs.db").write_bytes(bytes(100))
    (root / "more.zip").write_bytes(b"PK\x03\x04")
    (root / ".DS_Store").write_bytes(bytes(100))
    (root / "._000.png").write_bytes(bytes(100))
    put(root / ".ipynb_checkpoints" / "deep" / "000.png")
    put(root / "__MACOSX" / "000.png")
    (root / "metadata.jsonl").write_text('{"file_name": "names/train.png", "text": "a train"}\n')
    os.mkfifo(root / "pipe.png")

    images = load(root)
    assert len(images) == used
    assert len(images) + images.left_out.total() == files_below(root) > 60
    assert images.left_out == {
        "links to folders that are read already": 3,
        "links to files that are read already": 1,
        "broken links": 2,
        "bad images": 4,
        "HEIC, which needs pip install pillow-heif": 1,
        "camera raw": 1,
        "archives (unpack them, or give a ZIP file as train_data_dir)": 1,
        "no images": 3,
        "hidden": 4,
        "metadata": 1,
        "no regular files": 1,
    }
    said = capsys.readouterr().err
    assert f"{used} images in 3 classes; {images.left_out.total()} of {files_below(root)} left out (" in said
    assert "\x1b" not in said
    assert load(root).left_out == images.left_out, "from the cache"
    stream = load(root, streaming=True, dataloader_num_workers=0, shuffle_buffer_size=4)
    assert next(StreamedBatches(stream, used, seed=0)).images.shape == (used, 3, 8, 8)


@pytest.mark.parametrize(
    "classes",
    [("bus", "car", "train"), ("cat", "test"), ("contest", "valley", "training wheels"), ("cat[1]", "dog{2}", "cow*")],
)
def test_folders_whose_names_are_words_of_splits_are_classes(classes, tmp_path):
    for number, name in enumerate(classes):
        put(tmp_path / name / "a.png", 2 * number)
        put(tmp_path / name / "b.png", 2 * number + 1)
    images = load(tmp_path)
    assert len(images) == 2 * len(classes)
    assert images.label_names == sorted(classes)


def test_numbered_folders_are_in_numeric_order(tmp_path):
    for number in range(12):
        Image.new("L", (8, 8), 20 * number).save(put(tmp_path / str(number) / "a.png"))
    images = load(tmp_path)
    assert images.label_names == [str(number) for number in range(12)]
    assert (images.images[:, 0, 0, 0] == 20 * images.labels).all()


@pytest.mark.parametrize(
    "files, names",
    [
        (["cat/2019/jan/a.png", "dog/2020/feb/b.png"], ["cat", "dog"]),
        (["photos/all/cat/a.png", "photos/all/dog/b.png"], ["cat", "dog"]),
        (["cat/a.png", "dog/puppy/b.png"], ["cat", "dog"]),
        (["cat/a.png", "cat/b.png"], None),
        (["a.png", "b.png"], None),
        (["a.png", "deeper/b.png"], None),
    ],
)
def test_the_class_is_the_first_folder_in_which_images_differ(files, names, tmp_path):
    for number, file in enumerate(files):
        put(tmp_path / file, number)
    assert load(tmp_path).label_names == names


def test_an_image_beside_class_folders_has_no_label(tmp_path, capsys):
    for number, file in enumerate(["cat/a.png", "dog/b.png", "cover.png"]):
        put(tmp_path / file, number)
    images = load(tmp_path)
    assert (len(images), images.num_unlabelled, images.labels) == (3, 1, None)
    assert "1 of 3 images have no label" in capsys.readouterr().err
    labelled = images.labelled()
    assert sorted(labelled.labels.tolist()) == [0, 1]
    assert len(labelled) + labelled.left_out.total() == 3


@pytest.mark.parametrize("test", ["test", "Testing", "eval"])
def test_train_and_test_alone_at_the_top_are_splits_and_that_is_said(test, tmp_path, capsys):
    for name, count in (("train", 3), (test, 2)):
        for number in range(count):
            put(tmp_path / name / "cat" / f"{number}.png", number)
    images = load(tmp_path)
    assert (len(images), images.left_out) == (3, {"in other splits": 2})
    assert f"'train' is the training split; '{test}' not used" in capsys.readouterr().err
    assert len(load(tmp_path, dataset_split="test")) == 2
    assert len(load(tmp_path, dataset_split="all")) == 5
    assert len(load(tmp_path, dataset_split="train+test")) == 5
    assert len(load(tmp_path, dataset_split="train[:2]")) == 2
    with pytest.raises(InputError, match=r"dataset_split='validation': .* has no folder 'validation'; it has"):
        load(tmp_path, dataset_split="validation")


def test_a_held_out_folder_beside_classes_is_not_trained_on(tmp_path):
    for number, name in enumerate(["cat", "dog", "test"]):
        put(tmp_path / name / "a.png", number)
    assert len(load(tmp_path)) == 3
    images = load(tmp_path, held_out_split="test")
    assert (len(images), images.label_names) == (2, ["cat", "dog"])


@pytest.mark.parametrize(
    "part, numbers",
    [
        ("train[:50%]", range(10)),
        ("train[15:]", range(15, 20)),
        ("train[-25%:-2]", range(15, 18)),
        ("train[:2]+train[18:]", [0, 1, 18, 19]),
    ],
)
def test_parts_of_a_folder(part, numbers, tmp_path):
    for number in range(20):
        Image.new("L", (8, 8), number).save(put(tmp_path / f"{number:02d}.png"))
    assert sorted(load(tmp_path, dataset_split=part).images[:, 0, 0, 0].tolist()) == list(numbers)


def rows(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "name, content",
    [
        ("metadata.jsonl", rows({"file_name": "a.png", "kind": "x"}, {"file_name": "b.png", "kind": "y"})),
        ("metadata.jsonl", rows({"file_name": ".\\a.png", "kind": "x"}, {"file_name": "./b.png", "kind": "y"})),
        ("metadata.csv", "file_name,kind\na.png,x\nb.png,y\n"),
        ("metadata.csv", "\ufefffile_name;kind\r\na.png;x\r\nb.png;y\r\n"),
        ("metadata.csv", "kind\tfile_name\nx\ta.png\ny\tb.png\n"),
    ],
)
def test_metadata_gives_labels_and_images_without_a_row_stay(name, content, tmp_path, capsys):
    for number, file in enumerate("abc"):
        Image.new("L", (8, 8), number).save(put(tmp_path / f"{file}.png"))
    (tmp_path / name).write_text(content)
    images = load(tmp_path, label_column="kind")
    assert (len(images), images.label_names, images.num_unlabelled) == (3, ["x", "y"], 1)
    labelled = images.labelled()
    assert (labelled.images[:, 0, 0, 0] == labelled.labels).all()
    assert load(tmp_path).label_names is None, "not asked for"


def test_rows_without_an_image_and_damaged_metadata_are_said(tmp_path, capsys):
    for number in range(3):
        put(tmp_path / f"{number}.png", number)
    (tmp_path / "metadata.jsonl").write_text(rows({"file_name": "0.png", "k": 1}, {"file_name": "9.png", "k": 2}))
    assert len(load(tmp_path)) == 3
    assert "1 rows of its metadata files name no image that is used" in capsys.readouterr().err
    for content in ("{'file_name': '0.png'}\n", rows({"image": "0.png"}), rows([1])):
        (tmp_path / "metadata.jsonl").write_text(content)
        assert len(load(tmp_path)) == 3
        assert "metadata.jsonl cannot be read" in capsys.readouterr().err
        with pytest.raises(InputError, match=r"label_column='k': .*metadata\.jsonl cannot be read"):
            load(tmp_path, label_column="k")
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(
        InputError, match=r"label_column='k': .* has no such label column; its metadata files have none"
    ):
        load(tmp_path, label_column="k")


def test_captions_leave_class_folders_as_they_are(tmp_path):
    put(tmp_path / "cat" / "a.png", 0)
    put(tmp_path / "dog" / "b.png", 1)
    (tmp_path / "metadata.jsonl").write_text(rows({"file_name": "cat/a.png", "text": "x"}))
    assert load(tmp_path).label_names == load(tmp_path, label_column="label").label_names == ["cat", "dog"]


@pytest.mark.parametrize("labels, names", [([5, 2, 5], ["2", "5"]), (None, None)])
def test_labels_of_stylegan(labels, names, tmp_path):
    for number in range(3):
        put(tmp_path / "00000" / f"img{number}.png", number)
    pairs = labels and [[f"00000/img{number}.png", label] for number, label in enumerate(labels)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": pairs}))
    assert load(tmp_path).label_names == names


def zipped(path, folder, extra=()):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
        for name, content in extra:
            archive.writestr(name, content)
    return path


def test_a_zip_file_is_read_as_the_folder_in_it(tmp_path):
    for number in range(6):
        put(tmp_path / "photos" / ["cat", "train"][number % 2] / f"{number}.png", number)
    extra = [("__MACOSX/._a.png", b"x"), ("notes.txt", b"x"), ("../up.png", b"x")]
    path = zipped(tmp_path / "photos.zip", tmp_path / "photos", extra)
    folder, archive, by_name = load(tmp_path / "photos"), load(path), load(None, dataset_name=str(path))
    assert archive.fingerprint == by_name.fingerprint == folder.fingerprint
    assert archive.label_names == ["cat", "train"]
    assert len(archive) + archive.left_out.total() == 9
    stream = load(path, streaming=True, dataloader_num_workers=2)
    assert next(StreamedBatches(stream, 6, seed=0)).images.shape == (6, 3, 8, 8)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_a_zip_file_with_the_same_name_are_used_and_counted_once_each(tmp_path):
    contents = [put(tmp_path / "photos" / f"{number}.png", number).read_bytes() for number in range(3)]
    path = zipped(tmp_path / "photos.zip", tmp_path / "none", [("a.png", content) for content in contents])
    images = load(path)
    assert (len(images), images.left_out) == (3, {})


def test_damaged_members_of_a_zip_file_are_bad_images(tmp_path):
    for number in range(4):
        put(tmp_path / "photos" / f"{number}.png", number)
    path = zipped(tmp_path / "photos.zip", tmp_path / "photos")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 255
    path.write_bytes(content)
    images = load(path)
    assert (len(images), images.left_out) == (3, {"bad images": 1})


@pytest.mark.parametrize(
    "name, content, why",
    [("a.zip", b"PK\x03\x04", "a folder or a ZIP file"), ("a.tar", b"x", "unpack other archives")],
)
def test_other_files_are_no_folders(name, content, why, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=why):
        load(tmp_path / name)


def test_the_only_reason_is_named_where_no_image_is_left(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(InputError, match="there are no image files in it; left out: 3 HEIC, which needs pip install"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["data.parquet", "train/data-00000-of-00001.arrow", "0.tar", "list.csv"])
def test_a_folder_of_tables_is_referred_to_the_option_that_reads_it(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"a,b")
    with pytest.raises(
        InputError, match=r"no image files in it; left out: 1 .*; it holds tables .* dataset_name reads"
    ):
        load(tmp_path)


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_what_is_listed_and_gone_or_not_to_be_entered_is_counted(error, tmp_path, monkeypatch):
    """A download removes its temporary files; a folder with the permission to list it alone."""
    for number, name in enumerate(["a.png", "b.png", "lost.png", "lost/c.png"]):
        put(tmp_path / name, number)
    lstat = os.lstat

    def fails(path):
        if "lost" in str(path):
            raise error(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", fails)
    images = load(tmp_path)
    assert len(images) == 2
    assert images.left_out == {"cannot be read": 1, "folders that cannot be read": 1}


def test_a_local_folder_of_images_can_be_named_as_a_dataset(tmp_path):
    for number, name in enumerate(["bus", "train"]):
        put(tmp_path / name / "a.png", number)
    assert load(None, dataset_name=str(tmp_path)).label_names == ["bus", "train"]


def test_an_endless_file_never_hangs(tmp_path):
    """A pipe that is put in place of an image after the folder was listed."""
    put(tmp_path / "a.png")
    opened = open_folder(str(tmp_path), DataConfig(train_data_dir=str(tmp_path)))
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    result = []
    thread = threading.Thread(
        target=lambda: result.append(decode_or_error(opened.read(0, 1)[0][1], Preprocessing(8, 3))), daemon=True
    )
    thread.start()
    thread.join(timeout=20)
    assert result and "it is no regular file" in str(result[0])


def eps_that_runs(folder):
    script = folder / "gs"
    script.write_text(f"#!{sys.executable}\nopen({str(folder / 'ran')!r}, 'w')\n")
    script.chmod(0o755)
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_image_starts_another_program(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    content = eps_that_runs(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for number in range(3):
        put(tmp_path / "photos" / f"{number}.png", number)
    for name in ("innocent.png", "drawing.eps", "nothing"):
        (tmp_path / "photos" / name).write_bytes(content)
    assert len(load(tmp_path / "photos")) == 3
    assert not (tmp_path / "bin" / "ran").exists()


def test_a_gzipped_fits_image_is_not_unpacked_into_gigabytes(tmp_path):
    def card(key, value):
        return f"{key:<8}= {value:>20}".ljust(80).encode()

    def padded(header):
        return header + b" " * (-len(header) % 2880)

    first = [card("SIMPLE", "T"), card("BITPIX", "8"), card("NAXIS", "0"), b"END".ljust(80)]
    table = {"BITPIX": 8, "NAXIS": 2, "NAXIS1": 8, "NAXIS2": 1, "PCOUNT": 0, "GCOUNT": 1, "TFIELDS": 1, "ZIMAGE": "T",
             "ZCMPTYPE": "'GZIP_1  '", "ZBITPIX": 8, "ZNAXIS": 2, "ZNAXIS1": 64, "ZNAXIS2": 64}  # fmt: skip
    second = [b"XTENSION= 'BINTABLE'".ljust(80), *(card(*item) for item in table.items()), b"END".ljust(80)]
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = packer.compress(bytes(1 << 24)) + packer.flush()
    put(tmp_path / "a.png")
    (tmp_path / "bomb.fits").write_bytes(padded(b"".join(first)) + padded(b"".join(second)) + bytes(8) + body)
    assert load(tmp_path).left_out == {"bad images": 1}


def test_strips_are_refused_before_they_take_gigabytes(tmp_path):
    put(tmp_path / "a.png")
    Image.new("RGB", (1, 200_000)).save(tmp_path / "strip.png")
    assert load(tmp_path, center_crop=False).left_out == {"bad images": 1}
    assert len(load(tmp_path)) == 2


def test_many_files_are_listed_fast(tmp_path):
    """A thousandth of a second per file at most, a hundredth of which it takes, so that later starts are fast.

    No object is left per file: many would start a collection of garbage, which takes longer than listing them.
    """
    data = struct.pack("8s", b"\x89PNG\r\n\x1a\n")
    for number in range(3000):
        (tmp_path / f"{number}.png").write_bytes(data)
    gc.collect()
    num_objects, began = len(gc.get_objects()), time.perf_counter()
    opened = open_folder(str(tmp_path), DataConfig(train_data_dir=str(tmp_path)))
    assert len(opened) == 3000
    assert time.perf_counter() - began < 3
    assert len(gc.get_objects()) - num_objects < 1000
