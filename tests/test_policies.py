"""The policies: known answers of the published operations, how often each acts, and that a draw is its slot's alone."""

import collections
from random import Random

import numpy as np
import pytest
from jpeg_folder import photograph
from PIL import Image, ImageChops
from published_policies import autoaugmented, sub_policies

from saddle_jax.data.augment import augmentation, autoaugment, randaugment, simclr
from saddle_jax.data.augment.augmentation import Augmentation

TOTAL = 20_000
IMAGES = np.stack([np.asarray(photograph(seed, 32, 32)) for seed in range(64)])
FILL = (124, 116, 104)
TINY = Image.new("RGB", (4, 4))


def assert_share(count, share, total=TOTAL):
    assert count / total == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / total) + 1e-9)


@pytest.fixture
def calls(monkeypatch):
    """Note, instead of changing an image, how the policies' operations are called, by name; each image is TINY."""
    found = collections.defaultdict(list)

    def note(module, function):
        def noted(image, name, *numbers):
            found[name].append(numbers)
            return image

        monkeypatch.setattr(module, function, noted)

    note(autoaugment, "operate")
    note(randaugment, "recolor")
    note(randaugment, "move")
    note(simclr, "jitter")
    return found


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 45)])
def test_autoaugment_is_the_published_policy(height, width):
    """Every operation of every pair, with both signs."""
    images = [photograph(seed, width, height) for seed in range(4)]
    theirs = {"color": "color", "shearY": "shear_y", "translateX": "translate_x", "translateY": "translate_y"}
    assert len(autoaugment.PAIRS) == len(sub_policies()) == 25
    for ours, pair in zip(autoaugment.PAIRS, sub_policies(), strict=True):
        for one, (name, probability, magnitude) in zip(ours, pair, strict=True):
            assert one == (theirs.get(name, name), probability, magnitude)
            for sign in (-1, 1):
                for image in images:
                    found = autoaugment.operate(image, one[0], magnitude / 9, sign)
                    assert found is not image
                    np.testing.assert_array_equal(found, autoaugmented(image, name, magnitude, sign), str(one))


def test_autoaugment_draws_its_pairs_and_signs_evenly(calls):
    random = Random(0)
    for _ in range(TOTAL):
        autoaugment.change(TINY.copy(), random)
    for name in {one[0] for pair in autoaugment.PAIRS for one in pair}:
        share = sum(chance for pair in autoaugment.PAIRS for other, chance, _ in pair if other == name) / 25
        assert len(calls[name]) / TOTAL == pytest.approx(share, abs=0.015)
        assert_share(sum(sign > 0 for _, sign in calls[name]), 0.5, len(calls[name]))


def test_cutout_is_a_hole_around_any_pixel(calls):
    white = Image.new("RGB", (32, 32), (255, 255, 255))
    random, sides = Random(1), []
    for _ in range(2000):
        hole = np.asarray(autoaugment.change(white.copy(), random)) == 0
        rows, columns = hole.any((1, 2)), hole.any((0, 2))
        assert (hole == (rows[:, None] & columns)[..., None]).all()
        sides.append((rows.sum(), columns.sum()))
    sides = np.array(sides)
    assert sides.max() == 16 and sides.min() == 8
    assert_share((sides == 16).sum(), 17 / 32, sides.size)  # a center that is 8 or more from the edges: 8 to 24 of 32


@pytest.mark.parametrize(
    ("name", "numbers"),  # of the largest magnitude, for 28 x 45 pixels: Pillow's, as the published code names them
    [
        ("translate_x", (1, 0, 20, 0, 1, 0)),
        ("translate_y", (1, 0, 0, 0, 1, 12)),
        ("shear_x", (1, 0.3, 0, 0, 1, 0)),
        ("shear_y", (1, 0, 0, 0.3, 1, 0)),
        ("rotate", 30),
    ],
)
@pytest.mark.parametrize("kernel", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_randaugment_moves_and_fills_as_published(name, numbers, kernel):
    image = photograph(0, 45, 28)
    found = randaugment.move(image, name, 1.0, kernel, FILL)
    if name == "rotate":
        expected = image.rotate(numbers, resample=kernel, fillcolor=FILL)
    else:
        expected = image.transform(image.size, Image.Transform.AFFINE, numbers, kernel, fillcolor=FILL)
    np.testing.assert_array_equal(found, expected)


def test_randaugment_recolors_as_published():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1) * np.ones(3, np.uint8)
    image, level = Image.fromarray(pixels), pixels.astype(int)
    for name, magnitude, expected in (
        ("invert", 1.0, 255 - level),
        ("posterize", 1.0, level // 16 * 16),  # four bits stay
        ("posterize", 0.99, level // 32 * 32),
        ("solarize", 1.0, level),  # from 256 on
        ("solarize", 0.9, np.where(level < 230, level, 255 - level)),
        ("solarize_add", 1.0, np.where(level < 128, np.minimum(level + 110, 255), level)),
        ("brightness", 1.0, np.minimum((1.9 * level + 1e-9).astype(int), 255)),
        ("equalize", 1.0, level),
        ("autocontrast", 1.0, level),
    ):
        assert np.abs(np.asarray(randaugment.recolor(image, name, magnitude)) - expected).max() == 0, name
    photo = photograph(0, 32, 32)
    for name in ("color", "contrast", "sharpness"):
        found = np.asarray(randaugment.recolor(photo, name, 1.0), int)
        np.testing.assert_array_equal(randaugment.recolor(photo, name, 0.5), photo)  # a factor of 1
        assert np.abs(found - np.asarray(photo)).mean() > 1


def test_randaugment_draws_evenly_and_close_to_its_largest_magnitude(calls):
    random = Random(0)
    for _ in range(TOTAL):
        randaugment.change(TINY, random, FILL)
    assert len(calls) == len(randaugment.NAMES) == 15
    for found in calls.values():
        assert_share(len(found), 1 / 15)  # two of 15, half of the time
    moves = [(signed, kernel) for signed, kernel, fill in sum((calls[n] for n in ("rotate", "shear_x")), [])]
    magnitude = np.array([abs(signed) for signed, _ in moves] + [one[0] for one in calls["sharpness"]])
    assert_share((magnitude == 1).sum(), 0.5, len(magnitude))  # cut off
    below = magnitude[magnitude < 1]
    assert np.sqrt(((10 - 10 * below) ** 2).mean()) == pytest.approx(0.5, rel=0.1)
    assert_share(sum(signed > 0 for signed, _ in moves), 0.5, len(moves))
    assert_share(sum(kernel == Image.Resampling.BICUBIC for _, kernel in moves), 0.5, len(moves))


def test_simclr_draws_its_policy(calls):
    random, jittered, orders = Random(0), 0, collections.Counter()
    for _ in range(TOTAL):
        before = {name: len(found) for name, found in calls.items()}
        simclr.change(TINY, random)
        jittered += sum(map(len, calls.values())) > sum(before.values())
    assert_share(jittered, 0.8)
    assert {len(found) for found in calls.values()} == {jittered} and set(calls) == set(simclr.NAMES)
    for name, found in calls.items():
        numbers = np.array(found)[:, 0]
        low, high = (-0.1, 0.1) if name == "hue" else (0.6, 1.4)
        assert numbers.min() == pytest.approx(low, abs=1e-3) and numbers.max() == pytest.approx(high, abs=1e-3)
        assert numbers.mean() == pytest.approx((low + high) / 2, abs=0.01)
    for _ in range(4800):
        orders[tuple(random.sample(simclr.NAMES, 4))] += 1
    assert len(orders) == 24 and max(orders.values()) < 300


def test_simclr_grays_and_blurs_by_chance(calls):
    photo, random = photograph(0, 32, 32), Random(0)
    colorless = photo.convert("L").convert("RGB")
    grays = blurred = 0
    for _ in range(2000):
        found = np.asarray(simclr.change(photo, random))
        is_gray = (found == found[..., :1]).all()
        grays += is_gray
        blurred += (found != np.asarray(colorless if is_gray else photo)).any()
    assert_share(grays, 0.2, 2000)
    assert_share(blurred, 0.5, 2000)


def test_a_hue_turns_as_torchvisions(calls):
    """torchvision adds uint8(255 part) to the hue's levels, which go round."""
    photo = photograph(3, 32, 32)
    for part in (-0.1, -0.03, 0.0, 0.002, 0.07, 0.1):
        hue, saturation, value = photo.convert("HSV").split()
        turned = np.asarray(hue) + np.array(int(part * 255)).astype(np.uint8)
        expected = Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
        assert ImageChops.difference(simclr.turned_hue(photo, part), expected).getbbox() is None


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 60), (60, 28)])
def test_crops_in_memory_have_torchvisions_distribution(height, width):
    """Against torchvision's own loop with another generator: means and squares of place and size."""
    draw, random = np.random.default_rng(3), Random(1)

    def torchvisions():
        for _ in range(10):
            area = height * width * draw.uniform(0.2, 1.0)
            ratio = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return draw.integers(0, width - w + 1), draw.integers(0, height - h + 1), w, h
        if width / height < 3 / 4:
            w, h = width, round(width / (3 / 4))
        elif width / height > 4 / 3:
            w, h = round(height * (4 / 3)), height
        else:
            w, h = width, height
        return (width - w) // 2, (height - h) // 2, w, h

    found = np.array([simclr.window(width, height, random) for _ in range(6000)])
    theirs = np.array([torchvisions() for _ in range(6000)])
    for power in (1, 2):
        a, b = found.astype(float) ** power, theirs.astype(float) ** power
        error = np.sqrt((a.var(0) + b.var(0)) / 6000)
        assert (np.abs(a.mean(0) - b.mean(0)) <= 4.5 * error + 1e-9).all(), power
    assert (found[:, :2] >= 0).all() and (found[:, :2] + found[:, 2:] <= (width, height)).all()


def test_a_crop_in_memory_is_torchvisions():
    photo = photograph(5, 28, 45)
    for seed in range(40):
        left, top, width, height = simclr.window(28, 45, Random(seed))
        expected = photo.crop((left, top, left + width, top + height)).resize(photo.size, Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(simclr.crop(photo, Random(seed), flip=False), expected)
    mirrored = [np.array_equal(simclr.crop(photo, Random(seed), flip=True), np.asarray(
        simclr.crop(photo, Random(seed), flip=False))[:, ::-1]) for seed in range(400)]  # fmt: skip
    assert_share(sum(mirrored), 0.5, 400)


@pytest.mark.parametrize("name", ["autoaugment", "randaugment", "simclr"])
def test_what_becomes_of_an_image_depends_on_its_own_draws_alone(name):
    view = Augmentation(name, (32, 32, 3), crop_padding=4, mean=FILL)
    draws = augmentation.draw(view, np.random.default_rng(5), len(IMAGES))
    together = augmentation.apply(view, IMAGES, draws)
    assert together.dtype == np.uint8 and (together != IMAGES).any(axis=(1, 2, 3)).mean() > 0.9
    for row in (0, 17, 63):
        alone = augmentation.apply(view, IMAGES[row : row + 1], draws[row : row + 1])
        np.testing.assert_array_equal(alone[0], together[row])
    again = augmentation.apply(view, IMAGES, np.concatenate([draws[:, :-1], draws[:, -1:] + 1], axis=1))
    assert (again != together).any(axis=(1, 2, 3)).mean() > 0.8


def test_the_crops_draws_are_what_they_were():
    """Published figures were trained with them."""
    generator = np.random.default_rng(9)
    expected = np.column_stack([generator.integers(0, 9, (100, 2)), generator.integers(0, 2, 100)])
    crop = Augmentation("crop_flip", (32, 32, 3), crop_padding=4)
    found = augmentation.draw(crop, np.random.default_rng(9), 100)
    np.testing.assert_array_equal(found, expected)
    for name in ("autoaugment", "randaugment"):  # which go on from there
        again = augmentation.draw(crop._replace(name=name), np.random.default_rng(9), 100)
        np.testing.assert_array_equal(again[:, :3], expected)
    encoded = Augmentation("random_resized_crop", (224, 224, 3), encoded=True)
    expected = np.random.default_rng(9).integers(0, 2**31, (100, 27), np.int32)
    for name in ("random_resized_crop", "randaugment", "simclr"):
        found = augmentation.draw(encoded._replace(name=name), np.random.default_rng(9), 100)
        np.testing.assert_array_equal(found[:, :27], expected)
