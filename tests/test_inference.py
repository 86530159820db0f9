"""A trained run in use: predictions equal to evaluation's, in every form in which images come; the Python door."""

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from conftest import QUICKLY, ROOT
from PIL import Image
from rich.cells import cell_len

import saddle_jax
from saddle_jax import modes
from saddle_jax.errors import ConfigError, DataError
from saddle_jax.experiment import command_line
from saddle_jax.host import console
from saddle_jax.inference import inputs, outputs
from saddle_jax.spectra.spectrometer import Spectrometer

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

NAMES = ("zero", "one", "two")
SIZES = (6, 20, 11)  # the largest class is "one"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return digits of three classes as folders of files."""
    from sklearn.datasets import load_digits

    root, found = tmp_path_factory.mktemp("images"), load_digits()
    for label, (name, number) in enumerate(zip(NAMES, SIZES, strict=True)):
        for part, rows in (("train", slice(0, number)), ("test", slice(30, 34))):
            (root / part / name).mkdir(parents=True)
            for place, image in enumerate(found.images[found.target == label][rows]):
                Image.fromarray((image * 255 / 16).astype(np.uint8)).save(root / part / name / f"{place:02d}.png")
    return root


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """Train for some steps from Python, on small images of a folder, and in a thread, as some notebooks do."""
    fields = {"duration": "30 steps", "model.width": 0.25, "eval.every": "100%", "checkpoint_every": "100%"}
    fields |= {"tensorboard": False, "model.kernels": "lax"}
    workdir = tmp_path_factory.mktemp("runs") / "r"
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(saddle_jax.train, "folder:la", root=folders, workdir=workdir, fields=fields).result()


@pytest.fixture(scope="module")
def evaluated(run):
    """Return the logits that --mode eval writes for the test images, and their labels, by name of the file."""
    command = command_line.parse(["main.py", "--mode=eval", f"--workdir={run.workdir}", "--checkpoint=latest"])
    assert modes.run(command) == 0
    with np.load(run.workdir / "eval" / "30-test-predictions.npz") as stored:
        return stored["logits"], stored["labels"]


def test_a_run_knows_its_classes_in_the_users_words(run):
    assert run.class_names == ("one", "two", "zero")
    assert run.class_sizes == {"one": 18, "two": 10, "zero": 5}
    assert run.step == 30 and "3 classes of 18 to 5" in repr(run)
    assert run.results["last"]["step"] == 30
    assert run.config.data.image_size == 8 and run.config.model.width == 0.25
    (start,) = json.loads((run.workdir / "run.json").read_text())["starts"]  # a command that does the same
    assert start["command"][:3] == ["saddle-jax", "--config=folder:la", f"--workdir={run.workdir}"]
    assert {"--config.model.width=0.25", f"--config.data.root={run.config.data.root}"} <= set(start["command"])


def test_predictions_are_evaluations_to_the_bit(run, folders, evaluated):
    logits, labels = evaluated
    found = run.predict(folders / "test")  # by name: the order of evaluation
    np.testing.assert_array_equal(found.logits_NC, logits)
    assert [name.split("/")[-2] for name in found.names] == [run.class_names[label] for label in labels]
    np.testing.assert_allclose(found.probabilities_NC.sum(1), 1, rtol=1e-6)
    assert found.classes == [run.class_names[best] for best in logits.argmax(1)]
    report = run.evaluate(folders / "test", [name.split("/")[-2] for name in found.names])
    stored = json.loads((run.workdir / "eval" / "30-test.json").read_text())
    assert dict(report) == dict(run.evaluate()) == {name: stored[name] for name in report}
    rows = [line.split() for line in repr(report).splitlines()[-3:]]
    assert [(*row[:2], row[-1]) for row in rows] == [("one", "18", "4"), ("two", "10", "4"), ("zero", "5", "4")]


def test_predictions_are_a_sequence_and_a_table(run, folders, evaluated):
    found = run.predict(folders / "test")
    assert len(found) == len(list(found)) == 12
    image, label, probability = list(found)[3]
    assert found[3] == found[-9] == (image, label, probability)
    assert image.endswith("one/03.png") and label == found.classes[3]
    assert probability == found.probabilities_NC[3].max()
    shown = repr(found).splitlines()
    assert len(shown) == 12 and shown[-1] == "... and 2 more"
    assert shown[4].split()[1:3] == [label, f"{probability:.2f}"]
    with pytest.raises(AttributeError, match="cannot assign"):
        found.names = ()


@pytest.mark.parametrize("columns", [40, 80])
def test_the_table_of_predictions_cuts_nothing(columns, monkeypatch, capsys):
    monkeypatch.setattr(console, "columns", lambda: columns)
    names = ("a white bird of the far north", "a gray gull of the south", "三趾鸥 红腿 属海鸟")
    odds = np.array([[0.7, 0.2, 0.1], [np.nan] * 3], np.float32)
    images = ("photos/" * 9 + "last.jpg", "scan.png")
    found = outputs.Predictions(images, names, odds, np.log(odds), {1: "a broken file"})
    console.table(outputs.table(found))
    text = capsys.readouterr().out
    assert max(map(cell_len, text.splitlines())) <= columns
    words = [*" ".join(names).split(), "0.70", "0.20,", "0.10", "not", "read"]
    assert sorted(word for word in text.split() if word in words) == sorted(words)
    assert repr(found).endswith("\nscan.png: not read: a broken file")


def test_the_figure_shows_every_class_and_compares_reports(run):
    from matplotlib import pyplot

    figure = run.plot()
    accuracy, sizes = figure.axes
    (line,) = accuracy.get_legend_handles_labels()[0]
    np.testing.assert_allclose(line.lines[0].get_ydata(), run.results["last"]["class_accuracy"])
    assert [label.get_text() for label in sizes.get_xticklabels()] == ["one", "two", "zero"]
    assert [bar.get_height() for bar in sizes.patches] == [18, 10, 5]
    assert figure._repr_png_().startswith(b"\x89PNG")
    one, other = run.results["last"], {"class_accuracy": [0.0, 0.0, None]}
    names = run.plot({"as it is": [one, one], "nothing $": other}).axes[0].get_legend_handles_labels()[1]
    assert names == ["as it is (mean ± sd, n = 2)", r"nothing \$"]
    assert not pyplot.get_fignums()


def test_every_form_of_images_gives_the_same(run, folders, tmp_path, evaluated):
    files = sorted((folders / "test").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    np.savez(tmp_path / "a.npz", images=pixels)
    (tmp_path / "list.txt").write_text("".join(f"{file} 0\n" for file in files))
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{file},x\n" for file in files))
    forms = [
        pixels, pixels / 255.0, jax.numpy.asarray(pixels), list(pixels), [Image.open(file) for file in files],
        list(map(str, files)), np.array(list(map(str, files))),
        tmp_path / "a.npz", tmp_path / "list.txt", tmp_path / "list.csv", str(folders / "test" / "*"),
    ]  # fmt: skip
    for form in forms:
        found = run.predict(form)
        np.testing.assert_array_equal(found.logits_NC, evaluated[0], err_msg=str(form)[:80])
    one = run.predict(pixels[3])
    np.testing.assert_allclose(one.logits_NC, evaluated[0][3:4], rtol=1e-5, atol=1e-6)


def test_a_pillow_image_is_what_its_file_is(tmp_path):
    """Also one that is to be turned, one of 16 bits, and one with transparency, which are not Pillow's RGB levels."""
    levels = np.random.default_rng(0).integers(0, 2**16, (6, 9), np.uint16)
    colors = Image.fromarray(np.repeat((levels >> 8).astype(np.uint8), 3, axis=1).reshape(6, 9, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    colors.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    colors.save(tmp_path / "transparent.png", transparency=(1, 2, 3))
    for name, turn in itertools.product(("turned.jpg", "deep.png", "transparent.png"), (True, False)):
        image = Image.open(tmp_path / name)
        (file,), (opened,) = (inputs.of_python(form, turn=turn) for form in (tmp_path / name, image))
        (expected, found), _ = inputs.prepare([file, opened], (9, 6, 3), turn=turn)
        np.testing.assert_array_equal(found, expected, err_msg=f"{name} {turn}")
        assert ("transparency" in image.info) == (name == "transparent.png")
    with pytest.raises(DataError, match="image 1: can't be decoded .*32 bits"):
        inputs.of_python([colors, colors.convert("F")], turn=True)
    (item,) = inputs.of_python(np.asarray(colors.convert("RGBA")), turn=True)
    assert item.content.shape == (6, 9, 4)


def test_a_logit_adjustment_moves_the_logits(run, folders, evaluated):
    adjusted = saddle_jax.load(run.workdir, adjust="logit:1").predict(folders / "test").logits_NC
    priors = np.array([18, 10, 5]) / 33
    np.testing.assert_allclose(adjusted, evaluated[0] - np.log(priors), rtol=1e-5, atol=1e-5)


def test_the_command_writes_every_probability_and_names_bad_images(run, folders, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n then nothing")
    (tmp_path / "large.jpg").parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 30), "white").save(tmp_path / "large.jpg")
    arguments = [str(folders / "test" / "one"), str(tmp_path / "broken.png"), str(tmp_path / "large.jpg")]
    command = [sys.executable, ROOT / "main.py", "--mode", "predict", "--workdir", run.workdir, *arguments]
    command, environment = [*command, "--out", "p.csv"], {**os.environ, **QUICKLY}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    told = [line for line in result.stdout.splitlines() if not line.startswith("now ")]  # what takes long
    start, *table, reason, _, _ = told
    assert start.startswith("run ") and all(len(line) <= 80 for line in table)
    assert reason.startswith(f"note   {tmp_path / 'broken.png'}: not read: ")
    assert "1 of 6 images could not be read" in result.stdout
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert len(rows) == 6 and rows[4]["problem"] and not rows[4]["class"]
    expected = run.predict(arguments)
    assert (list(expected)[4].label, expected.problems.keys()) == (None, {4})
    for row, label, probabilities in zip(rows, expected.classes, expected.probabilities_NC, strict=True):
        if label is not None:
            assert row["class"] == label
            assert [float(row[name]) for name in run.class_names] == pytest.approx(probabilities, rel=1e-5)
    for name in ("p.jsonl", "p.npz"):
        outputs.write(expected, tmp_path / name)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert lines[0]["class"] == expected.classes[0] and set(lines[0]["probabilities"]) == set(NAMES)
    with np.load(tmp_path / "p.npz") as stored:
        np.testing.assert_array_equal(stored["logits"], expected.logits_NC)
        assert stored["problems"][4] and stored["classes"][0] == expected.classes[0]


@pytest.mark.parametrize(
    "content",
    [
        "my photo.png\n{0}\nscan",
        "{0}\nmy photo.png\nscan",
        "scan\n{0}\nmy photo.png",
        "{0} 3\nmy photo.png 1\nscan 2",
        'path\n"{0}"\nmy photo.png\nscan',
        "Name\n{0}\nmy photo.png\nscan",
        'file_name,label\n"{0}",x\nmy photo.png,y\nscan,\n',
        'label,path\nx,"{0}"\ny,my photo.png\n,scan\n',
        ',filepath,width\n0,"{0}",8\n1,my photo.png,8\n2,scan,8\n',
        "split;image\nmine;{0}\n;my photo.png\n;scan\n",
        'image,class,probability,problem,one\n"{0}",x,0.5,,0.5\nmy photo.png,y,1,,1\nscan,,,not an image,\n',
        'my photo.png,1,train\n"{0}",2,train\nscan,2,train',
    ],
)
def test_lists_of_images_need_no_labels(tmp_path, content):
    """Also with a comma or a blank in a name, and with a name that does not end as those of images."""
    names = ["2, 3/b.png", "my photo.png", "scan"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text(content.format(names[0]))
    items = inputs.find([str(tmp_path / "list.txt")])
    assert sorted(item.content for item in items) == sorted(tmp_path / name for name in names)


def test_lists_that_name_no_images(tmp_path):
    path = tmp_path / "list.csv"
    for content, message in (
        (b"\n", "has no line with a path. Fix: one line per image"),
        (
            b"path,label\na.png,1\n,2\n",
            r"list.csv can't be used\nlines without a path: 1\n.*line 3: ',2', expected a path",
        ),
        (b"caf\xe9.png", "lines that are not UTF-8: 1"),
        (b"cat,a.png", "found 'cat,a.png' in its first line, expected the names of its columns"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            inputs.find([str(path)])


def test_a_glob_gives_each_file_once(folders):
    files = sorted((folders / "test").rglob("*.png"))
    for glob in ("**", "**/*", "*", "**/*.png", "*/"):
        assert [item.content for item in inputs.find([f"{folders}/test/{glob}"])] == files, glob
    assert len(inputs.find([f"{folders}/**/one"])) == 24


def test_a_name_that_is_not_text_is_shown_with_its_bytes(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.new("L", (8, 8)).save(path)
    for argument in (path, tmp_path, tmp_path / "*.png"):
        (item,) = inputs.find([str(argument)])
        assert item == (rf"{tmp_path}/caf\xe9.png", path)


def test_only_training_needs_devices_that_divide_its_batch(run, folders, evaluated, tmp_path, monkeypatch):
    """As where a run of one device is used on a machine with eight."""
    elsewhere = shutil.copytree(run.workdir, tmp_path / "r")
    config = json.loads((elsewhere / "config.json").read_text())
    config |= {"batch_size": 30, "micro_batches": 7}
    (elsewhere / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(saddle_jax.load(elsewhere).predict(folders / "test").logits_NC, evaluated[0])
    assert modes.run(command_line.parse(["main.py", f"--workdir={elsewhere}", "--mode=eval"])) == 0
    monkeypatch.setattr(Spectrometer, "measure", Mock(side_effect=InterruptedError))  # which takes a minute
    with pytest.raises(InterruptedError):
        modes.run(command_line.parse(["main.py", f"--workdir={elsewhere}", "--mode=spectra"]))


def test_what_is_no_image_is_told_at_once(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"(?s)nothing.png: found no file.*empty: the folder has no image file"):
        inputs.find([str(tmp_path / "nothing.png"), str(tmp_path / "empty")])
    with pytest.raises(DataError, match="no images are named"):
        inputs.find([])
    with pytest.raises(DataError, match="image 1: found int, expected a path"):
        run.predict([np.zeros((8, 8)), 3])
    with pytest.raises(DataError, match="images: found NoneType, expected a path"):
        run.evaluate(labels=["two"])
    with pytest.raises(DataError, match="labels: 'tow' is not a class of this run. Did you mean two"):
        run.evaluate([np.zeros((8, 8))], ["tow"])
    with pytest.raises(DataError, match="found no labels for 1 images"):
        run.evaluate([np.zeros((8, 8))])
    with pytest.raises(ConfigError, match="spectra.probe: there is no such field. Did you mean spectra.probes"):
        run.spectra("zero", probe=1)
    with pytest.raises(ConfigError, match="spectra.classes: 'zeros' is neither.*Did you mean zero"):
        run.spectra("zeros")
    with pytest.raises(ConfigError, match="holds no run"):
        saddle_jax.load(tmp_path)
    with pytest.raises(ConfigError, match="there is no such field. Did you mean"):
        saddle_jax.train("folder:la", root=tmp_path, fields={"data.flipp": True})


def test_importing_costs_nothing():
    code = "import sys, saddle_jax; assert not {'jax', 'numpy', 'absl'} & set(sys.modules), set(sys.modules) & {'jax'}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
