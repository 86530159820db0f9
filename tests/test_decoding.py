"""Pixels of encoded images: torchvision's transforms on Pillow images, to a level of 255; and what bad files do."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from jpeg_folder import augmented, centered, crop_of, jittered, photograph
from PIL import Image, ImageOps

from saddle_jax.data import inspection
from saddle_jax.data.augment import augmentation
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.augment.crop import DRAW_LIMIT
from saddle_jax.data.encoded import Decoding, ImageFiles
from saddle_jax.data.feeds import decoding, streaming
from saddle_jax.data.order import Order, Slots, evaluation_slots, slots_at
from saddle_jax.errors import DataError

CROP = Augmentation("random_resized_crop", (64, 64, 3), encoded=True)
SIZES = ((250, 188), (188, 250), (64, 64), (30, 21), (500, 150), (57, 211))


def encode(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(root, files, **changes):
    """Write {name: bytes} and return them as images."""
    for name, content in files.items():
        (root / name).write_bytes(content)
    settings = Decoding(size=64, resize=73, max_bad_fraction=0.0)._replace(**changes)
    return ImageFiles(str(root), np.array([name.encode() for name in files]), settings)


def draws_of(number, seed=0):
    return np.random.default_rng(seed).integers(0, DRAW_LIMIT, (number, 27), np.int32)


def difference(a, b):
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def shown(images, position, *, turn=True):
    """Return what Pillow makes of a file, upright."""
    with Image.open(images.name(position)) as image:
        return (ImageOps.exif_transpose(image) if turn else image).convert("RGB")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """JPEGs of all shapes with whole, halved and quartered colors, the same as PNG, and some turned ones."""
    files = {}
    for i, size in enumerate(SIZES):
        photo = photograph(i, *size)
        files[f"{i}.jpg"] = encode(photo, quality=90, subsampling=(2, 0, 1)[i % 3])
        files[f"{i}.png"] = encode(photo, "PNG")
    files["turned.jpg"] = encode(photograph(6, 90, 190), quality=90, exif=turned(6))
    files["upright.jpg"] = encode(photograph(7, 90, 190), quality=90, exif=turned(1))
    return write(tmp_path_factory.mktemp("photographs"), files)


def test_the_evaluation_sees_what_pillow_shows(photographs):
    load = decoding.make_loader(photographs, None)
    for position in range(len(photographs)):
        found = load(np.int32(position), True, np.zeros(3, np.int32)).numpy()
        assert difference(found, centered(shown(photographs, position), 64, 73)) <= 1, photographs.name(position)


def test_training_sees_what_pillow_shows_for_the_same_draws(photographs):
    load = decoding.make_loader(photographs, CROP)
    for position in range(len(photographs)):
        image = shown(photographs, position)
        for draws in draws_of(12, position):
            found = load(np.int32(position), True, draws).numpy()
            expected = augmented(image, draws / DRAW_LIMIT, 64, 0.0)
            assert difference(found, expected) <= 1, (photographs.name(position), draws)


def test_colors_change_to_the_level_as_pillow_changes_them():
    photo = photograph(3, 90, 70)
    for draws in draws_of(40):
        uniform = draws / DRAW_LIMIT
        found = decoding.jitter(tf.constant(np.asarray(photo)), tf.constant(uniform), 0.4).numpy()
        np.testing.assert_array_equal(found, np.asarray(jittered(photo, uniform, 0.4)))


def test_a_batch_goes_through_every_part_of_the_augmentation(photographs):
    """Crop, mirror and colors together: colors stretch the level by which the crop may differ."""
    images = photographs
    draws = draws_of(len(images), 7)
    slots = Slots(np.arange(len(images), dtype=np.int32), np.ones(len(images), bool), draws)
    (batch,) = streaming.batches(
        images, np.arange(len(images)), [slots], train=True, augmented=CROP._replace(color_jitter=0.4)
    )
    assert batch.images.shape == (len(images), 64, 64, 3)
    assert batch.labels.tolist() == list(range(len(images)))
    for position, found in enumerate(batch.images):
        expected = augmented(shown(images, position), draws[position] / DRAW_LIMIT, 64, 0.4)
        assert difference(found, expected) <= 6


@pytest.mark.parametrize(("name", "jitter"), [("randaugment", 0.4), ("simclr", 0.0)])
def test_policies_act_on_what_is_cropped(photographs, name, jitter, monkeypatch):
    """Crop and mirror as Pillow's; then the very levels that the policy makes of what was cropped, tested elsewhere."""
    view = CROP._replace(name=name, color_jitter=jitter, mean=(124, 116, 104))
    draws = augmentation.draw(view, np.random.default_rng(2), len(photographs))
    load = decoding.make_loader(photographs, view)
    monkeypatch.setattr(decoding, "by_workers", lambda _, images_BHWK, __: images_BHWK)
    load_unchanged = decoding.make_loader(photographs, view)
    load_unchanged(np.int32(0), True, draws[0])  # traced as patched
    monkeypatch.undo()
    changed = 0
    for position in range(len(photographs)):
        cropped = load_unchanged(np.int32(position), True, draws[position]).numpy()
        smallest = 0.2 if name == "simclr" else 0.08
        expected = augmented(shown(photographs, position), draws[position] / DRAW_LIMIT, 64, jitter, smallest)
        assert difference(cropped, expected) <= (6 if jitter else 1)
        found = load(np.int32(position), True, draws[position]).numpy()
        expected = augmentation.apply(view, cropped[None], draws[position][None])[0]
        np.testing.assert_array_equal(found, expected)
        changed += (found != cropped).any()
    assert changed >= len(photographs) // 2
    assert not load(np.int32(0), False, 0 * draws[0]).numpy().any()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (90, 400)])
def test_crops_have_torchvisions_distribution(height, width):
    """Against torchvision's own loop with PyTorch's generator: means and squares of place and size."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)

    def uniform(low, high):
        return low + (high - low) * torch.rand(1, generator=generator).item()

    def torchvisions():
        for _ in range(10):
            area = height * width * uniform(0.08, 1.0)
            ratio = np.exp(uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = torch.randint(0, height - h + 1, (1,), generator=generator).item()
                return top, torch.randint(0, width - w + 1, (1,), generator=generator).item(), h, w
        return crop_of(np.full(27, 1.0), height, width)  # what is done when no attempt fits draws nothing

    order = Order(1, np.zeros(3000, np.int32), 3000, 1, CROP)
    ours = decoding_crops(slots_at(order, 0).draws_BR, height, width)
    theirs = np.array([torchvisions() for _ in range(3000)])
    for power in (1, 2):
        a, b = ours.astype(float) ** power, theirs.astype(float) ** power
        error = np.sqrt((a.var(0) + b.var(0)) / 3000)
        assert (np.abs(a.mean(0) - b.mean(0)) <= 4 * error + 1e-9).all(), power
    areas = [np.sort(x[:, 2] * x[:, 3]) for x in (ours, theirs)]
    grid = np.linspace(0, height * width, 200)
    ranks = [np.searchsorted(x, grid) / 3000 for x in areas]
    assert np.abs(ranks[0] - ranks[1]).max() < 1.95 * np.sqrt(2 / 3000)  # Kolmogorov-Smirnov at 0.1 %


def decoding_crops(draws_BR, height, width):
    def crop(uniform_R):
        window = decoding._random_crop(tf.constant([height, width]), uniform_R, 64, CROP.area)
        return tf.concat([window.corner, window.extent], 0)

    all_crops = tf.function(lambda uniform_BR: tf.map_fn(crop, uniform_BR, fn_output_signature=tf.int32))
    return all_crops(tf.constant(draws_BR / DRAW_LIMIT)).numpy()


def test_the_mirror_the_colors_and_their_order_are_drawn_evenly():
    order = Order(1, np.zeros(6000, np.int32), 6000, 1, CROP)
    uniform = slots_at(order, 0).draws_BR / DRAW_LIMIT
    assert uniform.min() >= 0 and uniform.max() < 1
    np.testing.assert_allclose(uniform.mean(0), 0.5, atol=5 * np.sqrt(1 / 12 / 6000))
    np.testing.assert_allclose(np.bincount((uniform[:, 26] * 6).astype(int)) / 6000, 1 / 6, atol=0.03)
    assert np.abs(np.corrcoef(uniform.T) - np.eye(27)).max() < 0.07
    still = Order(1, np.zeros(60, np.int32), 60, 1, CROP._replace(flip=False))
    assert not slots_at(still, 0).draws_BR[:, 22].any()


# RELIABILITY D1: what becomes of a file.
PHOTO = photograph(1, 120, 90)
GRAY, PALETTE = PHOTO.convert("L"), PHOTO.quantize(200)
VEILED = PHOTO.convert("RGBA")
VEILED.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
DEEP = Image.fromarray(np.asarray(GRAY).astype(np.uint16) * 256 + 17)
SECOND = {"save_all": True, "append_images": [ImageOps.invert(PHOTO)]}
GOOD = encode(PHOTO, quality=90)
MIDDLE = len(GOOD) // 2


def without_adobe(content):
    """Leave out the segment that says that a CMYK JPEG is inverted."""
    start = content.index(b"\xff\xee")
    (length,) = struct.unpack(">H", content[start + 2 : start + 4])
    return content[:start] + content[start + 2 + length :]


def on_a_larger_screen(content):
    return content[:6] + struct.pack("<HH", 150, 120) + content[10:]


def top_down(content):
    return content[:22] + struct.pack("<i", -PHOTO.height) + content[26:]


def sixteen_bits_a_pixel():
    red, green, blue = (np.asarray(PHOTO)[::-1].astype(np.uint16) >> 3).transpose(2, 0, 1)
    pixels = (red << 10 | green << 5 | blue).astype("<u2").tobytes()
    sizes = (40, *PHOTO.size, 1, 16, 0, len(pixels), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + struct.pack("<IiiHHIIiiII", *sizes) + pixels


SOUND = {  # found by a sweep over formats and modes, of which TensorFlow decodes some differently
    "flipped bits, still a JPEG": GOOD[:MIDDLE] + bytes([GOOD[MIDDLE] ^ 1]) + GOOD[MIDDLE + 1 :],  # who can tell
    "JPEG": GOOD,
    "JPEG, progressive": encode(PHOTO, progressive=True),
    "JPEG, RGB": encode(PHOTO, keep_rgb=True),
    "JPEG, gray": encode(GRAY),
    "JPEG, CMYK": encode(PHOTO.convert("CMYK")),
    "JPEG, CMYK, not inverted": without_adobe(encode(PHOTO.convert("CMYK"))),
    "JPEG, several pictures": encode(PHOTO, "MPO", **SECOND),
    "JPEG, damaged EXIF": encode(PHOTO, exif=b"Exif\0\0damaged"),
    "1 x 1": encode(PHOTO.resize((1, 1))),
    "PNG": encode(PHOTO, "PNG"),
    "PNG, 1 bit": encode(GRAY.convert("1"), "PNG"),
    "PNG, palette": encode(PALETTE, "PNG"),
    "PNG, palette of 4 bits": encode(PHOTO.quantize(16), "PNG", bits=4),
    "PNG, palette, transparent": encode(PALETTE, "PNG", transparency=bytes(range(200))),
    "PNG, gray, transparent": encode(VEILED.convert("LA"), "PNG"),
    "PNG, transparent": encode(VEILED, "PNG"),
    "PNG, animated": encode(PHOTO, "PNG", **SECOND),
    "GIF": encode(PHOTO, "GIF"),
    "GIF, animated": encode(PHOTO, "GIF", **SECOND),
    "GIF, transparent": encode(VEILED, "GIF"),
    "GIF, frame smaller than the picture": on_a_larger_screen(encode(PHOTO, "GIF")),
    "BMP": encode(PHOTO, "BMP"),
    "BMP, top down": top_down(encode(PHOTO, "BMP")),
    "BMP, 1 bit": encode(GRAY.convert("1"), "BMP"),
    "BMP, gray": encode(GRAY, "BMP"),
    "BMP, palette": encode(PALETTE, "BMP"),
    "BMP, palette of 4 bits": encode(PHOTO.quantize(16), "BMP"),
    "BMP, 16 bits a pixel": sixteen_bits_a_pixel(),
    "BMP, 32 bits a pixel": encode(VEILED, "BMP"),
    "WebP": encode(PHOTO, "WEBP"),
    "WebP, lossless, transparent": encode(VEILED, "WEBP", lossless=True),
    "WebP, animated": encode(PHOTO, "WEBP", **SECOND),
    "TIFF": encode(PHOTO, "TIFF", compression="tiff_lzw"),
    "TIFF, CMYK": encode(PHOTO.convert("CMYK"), "TIFF"),
    **{f"JPEG, orientation {k}": encode(PHOTO, exif=turned(k)) for k in range(1, 9)},
    "PNG, palette, transparent, orientation 3": encode(PALETTE, "PNG", transparency=bytes(range(200)), exif=turned(3)),
    **{f"{kind}, orientation 6": encode(PHOTO, kind, exif=turned(6)) for kind in ("PNG", "WEBP", "TIFF")},
    "JPEG, orientation 8 in XMP": encode(PHOTO, xmp=b'<rdf:Description tiff:Orientation="8"/>'),
}
BAD_FILES = {
    "empty": b"",
    "truncated": GOOD[: len(GOOD) // 2],
    "truncated in its header": GOOD[:400],
    "flipped bytes, no longer a JPEG": GOOD[:2] + bytes(b ^ 255 for b in GOOD[2:40]) + GOOD[40:],
    "text": b"not an image\n",
    "start of a GIF": b"GIF89a",
    "progressive, truncated": SOUND["JPEG, progressive"][:2000],
    "turned, truncated": SOUND["JPEG, orientation 6"][:2000],
    "PNG, truncated": SOUND["PNG"][:2000],
    "GIF, truncated": SOUND["GIF"][:2000],
    "TIFF of fractions": encode(GRAY.convert("F"), "TIFF"),
    "a format that is not read": encode(PHOTO, "PPM"),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # from the test's own use of Pillow
@pytest.mark.parametrize("turn", [True, False])
def test_sound_files_become_what_pillow_makes_of_them(turn, tmp_path):
    images = write(tmp_path, SOUND, exif_orientation=turn)  # no name ends in .jpg: what a file is decides
    slots = evaluation_slots(len(SOUND), len(SOUND), 1)
    (batch,) = streaming.batches(images, np.zeros(len(SOUND), int), slots, train=False)
    whole = streaming.make_whole_check(images)
    for position, (kind, found) in enumerate(zip(SOUND, batch.images, strict=True)):
        assert difference(found, centered(shown(images, position, turn=turn), 64, 73)) <= 1, kind
        assert whole(position) == "", kind
        reason = inspection._opening(images)(position)
        assert reason == "", kind


def test_bad_files_are_named_with_the_reason(tmp_path):
    images = write(tmp_path, {"good": GOOD, **BAD_FILES})
    slots = evaluation_slots(len(images), len(images), 1)
    with pytest.raises(DataError) as error:
        next(streaming.batches(images, np.zeros(len(images), int), slots, train=False))
    first, *lines, fix = str(error.value).splitlines()
    assert first == "12 evaluation images can't be decoded" and fix.startswith("Fix: restore the file")
    assert lines.pop() == "  ... and 2 more"
    for kind, line in zip(list(BAD_FILES)[:10], lines, strict=True):
        assert line.startswith(f"  - {tmp_path}/{kind}: ") and "Error" not in line, line
    assert lines[0].endswith(": empty") and lines[4].endswith("not a JPEG, PNG, GIF, BMP, WebP, or TIFF")
    assert lines[2].endswith("Truncated File Read") and lines[5].endswith("the header of this GIF is damaged")
    look = streaming.make_whole_check(images)
    assert [bool(look(position)) for position in range(len(images))] == [False] + [True] * len(BAD_FILES)


def test_sixteen_bits_become_their_upper_eight(tmp_path):
    """Pillow would cut levels above 255 off."""
    deep = {"PNG": encode(DEEP, "PNG"), "TIFF": encode(DEEP, "TIFF"), "turned": encode(DEEP, "PNG", exif=turned(3))}
    images = write(tmp_path, deep)
    (batch,) = streaming.batches(images, np.zeros(3, int), evaluation_slots(3, 3, 1), train=False)
    for found, expected in zip(batch.images, (GRAY, GRAY, GRAY.rotate(180)), strict=True):
        assert difference(found, centered(expected.convert("RGB"), 64, 73)) <= 1


def bad_folder(root, bad, **changes):
    files = {f"{i}.jpg": encode(photograph(i, 40 + i, 50), quality=90) for i in range(20)}
    return write(root, {**files, **bad}, **changes)


TRUNCATED = encode(photograph(5, 45, 50), quality=90)
BAD = {"5.jpg": TRUNCATED[: len(TRUNCATED) * 2 // 3], "11.jpg": b"", "17.jpg": b"GIF89a"}


def training(images, start, stop):
    labels = np.arange(len(images), dtype=np.int32) % 3
    order = Order(2, labels, 8, 2, CROP)
    return list(
        streaming.batches(
            images, labels, (slots_at(order, step) for step in range(start, stop)), train=True, augmented=CROP
        )
    )


def test_a_bad_training_image_is_named_and_stops_by_default(tmp_path):
    with pytest.raises(DataError, match=r"training image.*can't be decoded") as error:
        training(bad_folder(tmp_path, BAD), 0, 3)
    assert any(f"{tmp_path}/{name}" in str(error.value) for name in BAD)
    assert "data.max_bad_fraction" in str(error.value)


def test_a_file_that_vanishes_is_never_masked(tmp_path):
    images = bad_folder(tmp_path, BAD, max_bad_fraction=0.5)
    (tmp_path / "3.jpg").unlink()
    with pytest.raises(DataError, match=r"reading images failed: .*3\.jpg; No such file"):
        training(images, 0, 3)
    with pytest.raises(OSError, match="No such file"):
        streaming.make_whole_check(images)(3)


def test_errors_of_the_storage_mask_nothing_and_are_tried_again_once(tmp_path, monkeypatch):
    """Storage that fails cannot be had here: the reader stands for it."""
    images = bad_folder(tmp_path, {}, max_bad_fraction=0.5)
    left = []
    read = ImageFiles.reader

    def failing(images, tf):
        def fail():
            if left:
                left.pop()
                raise OSError("timed out")
            return np.int32(0)

        plain = read(images, tf)
        return lambda position: plain(position + tf.ensure_shape(tf.numpy_function(fail, [], tf.int32), ()))

    expected = training(images, 0, 2)
    monkeypatch.setattr(ImageFiles, "reader", failing)
    left += [0]
    for ours, theirs in zip(training(images, 0, 2), expected, strict=True):
        np.testing.assert_array_equal(ours.mask, theirs.mask)
    left += [0] * 10**6
    with pytest.raises(DataError, match="reading images failed: .*timed out"):
        training(images, 0, 2)


def test_tolerated_bad_images_are_masked_slots_and_nothing_else_moves(tmp_path):
    (tmp_path / "sound").mkdir(), (tmp_path / "bad").mkdir()
    sound = training(bad_folder(tmp_path / "sound", {}), 0, 12)
    images = bad_folder(tmp_path / "bad", BAD, max_bad_fraction=0.15)
    found = training(images, 0, 12)
    assert len(found) == 12
    masked, seen = [], 0
    for step, (ours, theirs) in enumerate(zip(found, sound, strict=True)):
        assert not (ours.mask & ~theirs.mask).any()
        gone = theirs.mask & ~ours.mask
        masked += [(step, int(row), int(theirs.ids[row])) for row in np.flatnonzero(gone)]
        seen += int(np.isin(theirs.ids[theirs.mask], (11, 17)).sum())
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a[~gone], b[~gone])
            assert not a[gone].any()
    ids = [position for _, _, position in masked]
    assert sum(position != 5 for position in ids) == seen == 8  # four epochs
    assert 0 < ids.count(5) <= 4  # where the crop reaches what is missing
    # A resumed run masks the same slots, and delivers the same bytes, wherever it starts.
    for start in (1, 7):
        for ours, again in zip(found[start:], training(images, start, 12), strict=True):
            for a, b in zip(ours, again, strict=True):
                assert a.tobytes() == b.tobytes()
    with pytest.raises(DataError, match=r"3 training images can't be decoded, 2 allowed"):
        training(bad_folder(tmp_path / "bad", BAD, max_bad_fraction=0.1), 0, 12)


def test_slots_of_any_length_and_an_early_end(tmp_path):
    """A process that holds some of the devices takes its rows; a stream may be left at any batch."""
    images = bad_folder(tmp_path, {})
    labels = np.arange(20, dtype=np.int32)
    order = Order(2, labels, 8, 4, CROP)
    whole = [slots_at(order, step) for step in range(6)]
    parts = [Slots(*(x[2:4] for x in slots)) for slots in whole]
    expected = list(streaming.batches(images, labels, whole, train=True, augmented=CROP))
    stream = streaming.batches(images, labels, iter(parts), train=True, augmented=CROP)
    for full, _ in zip(expected, range(3), strict=False):
        for a, b in zip(full, next(stream), strict=True):
            assert a[2:4].tobytes() == b.tobytes()
    stream.close()
    assert list(streaming.batches(images, labels, [], train=True, augmented=CROP)) == []
