"""What augmentations draw: the policies' frequencies and magnitudes, and that a draw belongs to its slot alone."""

import numpy as np
import pytest
from jpeg_folder import photograph
from PIL import Image
from pillow_operations import change
from published_policies import autoaugmented, sub_policies

from saddle_jax.data import augmentation, geometry, policies
from saddle_jax.data import operations as ops
from saddle_jax.data.augmentation import Augmentation
from saddle_jax.data.backends import NUMPY
from saddle_jax.data.photometry import FACTOR_BITS

TOTAL = 50_000
IMAGES = np.stack([np.asarray(photograph(seed, 32, 32)) for seed in range(64)])


def draws_of(name, total=TOTAL, **fields):
    augmented = Augmentation(name, (32, 32, 3), **{"crop_padding": 4, "mean": (124, 116, 104), **fields})
    return augmentation.draw(augmented, np.random.default_rng(0), total)


def staged(name, draws, crop_columns):
    """Return the columns of each stage."""
    ends = np.cumsum([crop_columns, *(stage.width for stage in Augmentation(name, (32, 32, 3)).stages)])
    assert ends[-1] == draws.shape[1]
    return [draws[:, a:b] for a, b in zip(ends, ends[1:], strict=False)]


def assert_share(chosen, share, total=TOTAL):
    assert np.mean(chosen) == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / total) + 1e-9)


def test_autoaugment_draws_its_policy():
    """Against sums over the published 25 pairs, and magnitudes out of the published ranges."""
    first, second, hole = staged("autoaugment", draws_of("autoaugment"), 3)
    shares = {
        (0, ops.SOLARIZE): 0.1 + 0.5 + 0.4, (0, ops.MOVE_NEAREST): 0.7 + 0.4 + 0.9 + 0.7, (0, ops.SLIDE_Y): 0.5 + 0.2,
        (0, ops.SHARPNESS): 0.8 + 0.3, (0, ops.AUTOCONTRAST): 0.5 + 0.8 + 0.9, (0, ops.CONTRAST): 0.6,
        (0, ops.EQUALIZE): 0.6 + 0.3 + 0.2 + 0.2 + 0.8, (0, ops.COLOUR): 0.4 + 0.7 + 0.9,
        (0, ops.BRIGHTNESS): 0.9 + 0.1, (1, ops.CONTRAST): 0.2, (1, ops.MOVE_NEAREST): 0.3 + 0.7 + 0.5 + 0.7,
        (1, ops.SHARPNESS): 0.9 + 0.6 + 0.2, (1, ops.EQUALIZE): 0.9 + 0.5 + 0.6 + 0.6, (1, ops.POSTERIZE): 0.3,
        (1, ops.BRIGHTNESS): 0.6 + 0.7, (1, ops.AUTOCONTRAST): 0.4 + 0.6 + 0.9 + 0.9, (1, ops.COLOUR): 0.2 + 0.7,
        (1, ops.SOLARIZE): 0.2 + 0.8 + 0.1,
    }  # fmt: skip
    for (stage, operation), share in shares.items():
        assert_share((first, second)[stage][:, 0] == operation, share / 25)
    for stage in (0, 1):
        everything = sum(share for (where, _), share in shares.items() if where == stage)
        assert_share((first, second)[stage][:, 0] == 0, 1 - everything / 25)
    factors = first[first[:, 0] == ops.COLOUR, 1] / 2**FACTOR_BITS
    np.testing.assert_allclose(np.unique(factors), [0.1, 0.3, 0.7, 1.3, 1.7, 1.9], atol=1e-4)  # 3, 7 and 9 of 0.9 / 9
    assert np.unique(first[first[:, 0] == ops.SOLARIZE, 1]).tolist() == [0, 114, 200]  # invert; 113.8; 199.1
    assert np.unique(second[second[:, 0] == ops.POSTERIZE, 1]).tolist() == [2**3]  # five bits stay
    slopes = first[first[:, 0] == ops.SLIDE_Y, 2] / 2**16
    np.testing.assert_allclose(np.unique(slopes), np.array([-8, -7, 7, 8]) * 0.3 / 9, atol=1e-5)
    moved = np.unique(second[second[:, 0] == ops.MOVE_NEAREST][:, 1:], axis=0)
    assert sorted((row[2] >> 16, row[5] >> 16) for row in moved) == sorted(
        [(15, 0), (-15, 0), (13, 0), (-13, 0), (0, 15), (0, -15)]  # 14.501 and 12.9 of 32 pixels
    )
    assert (hole[:, 0] == ops.CUT_OUT).all()
    sides = hole[:, 3:] - hole[:, 1:3]
    assert sides.max() == 16 and sides.min() == 8
    assert_share(sides[:, 0] == 16, 17 / 32)  # a centre that is 8 or more from the edges: 8 to 24 of 0 to 31


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 45)])
def test_autoaugment_is_the_published_policy(height, width):
    """Every operation of every pair, with both signs, through the fill that images in memory have."""
    images = np.stack([np.asarray(photograph(seed, width, height)) for seed in range(4)])
    fill = Augmentation("autoaugment", (height, width, 3)).fill_K
    rows, chances = policies._autoaugment_table(height, width)
    assert len(chances) == len(sub_policies()) == 25
    for number, pair in enumerate(sub_policies()):
        for stage, (name, probability, magnitude) in enumerate(pair):
            assert chances[number, stage] == probability
            part = {"shearY": 0.01, "autocontrast": 0.01, "brightness": 0.02}.get(name, 0)  # by a level: docs/parity.md
            for sign in (0, 1):
                columns = np.tile(rows[stage][number, sign], (len(images), 1))
                found = ops.apply((policies.AUTOAUGMENT_STAGES[stage],), images, columns, fill, NUMPY)
                shown = [autoaugmented(Image.fromarray(image), name, magnitude, 2 * sign - 1) for image in images]
                difference = np.abs(found.astype(int) - np.stack([np.asarray(image) for image in shown]))
                assert difference.max() <= (part > 0) and (difference > 0).mean() <= part, (name, magnitude, sign)


def test_autoaugment_acts_in_its_order_before_cutout():
    draws = draws_of("autoaugment", len(IMAGES))
    draws[:, :3] = 4, 4, 0
    first, second, hole = staged("autoaugment", draws, 3)
    augmented = Augmentation("autoaugment", (32, 32, 3), crop_padding=4)
    found = augmentation.apply(augmented, IMAGES, draws)
    for i, image in enumerate(IMAGES):
        expected = Image.fromarray(image)
        for row in (first[i], second[i]):
            if row[0]:
                expected = change(expected, int(row[0]), row[1 : 1 + ops.NUMBERS[int(row[0])]].tolist())
        expected = np.array(expected, int)
        expected[hole[i, 1] : hole[i, 3], hole[i, 2] : hole[i, 4]] = 0
        assert (np.abs(found[i] - expected) > 1).mean() < 0.02


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
    images = np.stack([np.asarray(photograph(seed, 45, 28)) for seed in range(6)])
    one, bicubic = np.ones(1), np.array([kernel == Image.Resampling.BICUBIC])
    operation, row = policies._randaugment(name, one, one, bicubic, 28, 45)
    stage = policies.RANDAUGMENT_STAGES[0]
    columns = np.zeros((len(images), stage.width), np.int32)
    columns[:, 0], columns[:, 1 : 1 + row.shape[1]] = operation, row
    mean = Augmentation("randaugment", (28, 45, 3), mean=(124, 116, 104)).fill_K
    found = ops.apply((stage,), images, columns, mean, NUMPY)
    for image, shown in zip(map(Image.fromarray, images), found, strict=True):
        if name == "rotate":
            expected = image.rotate(numbers, resample=kernel, fillcolor=(124, 116, 104))
        else:
            affine = Image.Transform.AFFINE
            expected = image.transform(image.size, affine, numbers, kernel, fillcolor=(124, 116, 104))
        difference = np.abs(shown.astype(int) - np.asarray(expected))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.05


@pytest.mark.parametrize("degrees", [20 / 3, -29.3, 13.0])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 45)])
def test_a_rotation_is_pillows(degrees, height, width):
    images = np.stack([np.asarray(photograph(seed, width, height)) for seed in range(4)])
    row = geometry.rotation(np.array(degrees), height, width)
    for kernel in (None, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        numbers = row if kernel is None else [kernel == Image.Resampling.BICUBIC, *row]
        operation = ops.MOVE_NEAREST if kernel is None else ops.MOVE
        columns = np.tile([operation, *numbers], (len(images), 1)).astype(np.int32)
        found = ops.apply((ops.Stage((operation,)),), images, columns, (128,) * 3, NUMPY)
        for image, shown in zip(map(Image.fromarray, images), found, strict=True):
            expected = image.rotate(degrees, resample=kernel or Image.Resampling.NEAREST, fillcolor=(128,) * 3)
            difference = np.abs(shown.astype(int) - np.asarray(expected))
            assert difference.max() <= (kernel is not None) and (difference > 0).mean() < 0.02


def test_randaugment_draws_evenly_and_close_to_its_largest_magnitude():
    stages = staged("randaugment", draws_of("randaugment"), 3)
    for columns in stages:
        share = 1 / 30  # of 15 operations, half of the time
        counts = {
            0: 15, ops.AUTOCONTRAST: 1, ops.EQUALIZE: 1, ops.MOVE: 1, ops.POSTERIZE: 1, ops.SOLARIZE: 2,
            ops.SOLARIZE_ADD: 1, ops.COLOUR: 1, ops.CONTRAST: 1, ops.BRIGHTNESS: 1, ops.SHARPNESS: 1, ops.SLIDE_X: 2,
            ops.SLIDE_Y: 2,
        }  # fmt: skip
        for operation, count in counts.items():
            assert_share(columns[:, 0] == operation, count * share)
        factors = columns[columns[:, 0] == ops.SHARPNESS, 1] / 2**FACTOR_BITS
        assert_share(factors > 1.9 - 1e-4, 0.5, len(factors))  # half of the magnitudes are cut off at 10
        level = (1.9 - factors[factors < 1.9 - 1e-4]) / 1.8 * 10  # below 10
        assert np.sqrt((level**2).mean()) == pytest.approx(0.5, rel=0.1)
        added = columns[columns[:, 0] == ops.SOLARIZE_ADD, 1]
        assert added.max() == 110 and added.min() > 70
        assert set(columns[columns[:, 0] == ops.POSTERIZE, 1]) == {2**4, 2**5}  # four bits, or three
        solarized = columns[columns[:, 0] == ops.SOLARIZE, 1]
        assert_share(solarized == 0, 0.5, len(solarized))  # inverted
        slid = columns[columns[:, 0] == ops.SLIDE_X]
        slope, offset = slid[:, 2] / 2**16, (slid[:, 3] - slid[:, 2] / 2) / 2**16 - 0.5
        assert np.abs(slope).max() == pytest.approx(0.3, abs=1e-4)
        assert np.abs(offset).max() == pytest.approx(14, abs=1e-3)  # 45 % of 32 pixels, as a whole number
        assert_share(slope != 0, 0.5, len(slid))
        assert_share(slope[slope != 0] > 0, 0.5, int((slope != 0).sum()))
        assert_share(slid[:, 1] == geometry.BICUBIC, 0.5, len(slid))
        angle = np.degrees(np.arcsin(columns[columns[:, 0] == ops.MOVE, 5] / 2**16))
        assert np.abs(angle).max() == pytest.approx(30, abs=0.01)
        assert_share(angle > 0, 0.5, len(angle))
    assert abs(np.corrcoef(stages[0][:, 0], stages[1][:, 0])[0, 1]) < 0.02


def test_simclr_draws_its_policy():
    *jitters, grey, blur = staged("simclr", draws_of("simclr"), 5)
    acted = jitters[0][:, 0] > 0
    assert_share(acted, 0.8)
    orders = np.stack([columns[acted, 0] for columns in jitters], axis=1)
    assert (np.sort(orders, axis=1) == sorted([ops.BRIGHTNESS, ops.CONTRAST, ops.COLOUR, ops.HUE])).all()
    kinds, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(kinds) == 24
    np.testing.assert_allclose(counts / acted.sum(), 1 / 24, atol=0.006)
    everything = np.concatenate(jitters)
    for operation in (ops.BRIGHTNESS, ops.CONTRAST, ops.COLOUR):
        factors = everything[everything[:, 0] == operation, 1] / 2**FACTOR_BITS
        assert factors.min() == pytest.approx(0.6, abs=1e-3) and factors.max() == pytest.approx(1.4, abs=1e-3)
        assert factors.mean() == pytest.approx(1, abs=0.01)
    shifts = everything[everything[:, 0] == ops.HUE, 1].astype(np.uint8).astype(np.int8)
    assert shifts.min() == -25 and shifts.max() == 25 and abs(shifts.mean()) < 0.5  # a tenth of the circle
    assert_share(grey[:, 0] == ops.GREY, 0.2)
    assert_share(blur[:, 0] == ops.BLUR, 0.5)
    weights = blur[blur[:, 0] == ops.BLUR, 1:]
    assert ((weights[:, 0] + 2 * weights[:, 1:].sum(1)) == 2**14).all()
    ratio = weights[:, 1] / weights[:, 0]  # exp(-1 / 2 sigma^2)
    assert np.median(ratio) == pytest.approx(np.exp(-0.5 / 1.05**2), abs=0.02)  # of a sigma in the middle of 0.1 to 2


def test_simclr_shows_what_pillow_shows():
    draws = draws_of("simclr", len(IMAGES))
    *jitters, grey, blur = staged("simclr", draws, 5)
    blur[:] = 0  # it is no Pillow's: see test_operations
    found = augmentation.apply(Augmentation("simclr", (32, 32, 3)), IMAGES, draws)
    for i, image in enumerate(IMAGES):
        top, left, h, w, mirror = draws[i, :5].tolist()
        expected = (
            Image.fromarray(image).crop((left, top, left + w, top + h)).resize((32, 32), Image.Resampling.BILINEAR)
        )
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else expected
        for columns in jitters:
            if columns[i, 0]:
                expected = change(expected, int(columns[i, 0]), columns[i, 1:].tolist())
        expected = expected.convert("L").convert("RGB") if grey[i, 0] else expected
        difference = np.abs(found[i] - np.asarray(expected, int))
        assert difference.max() <= 9 and (difference > 1).mean() < 0.05


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 60)])
def test_crops_in_memory_have_torchvisions_distribution(height, width):
    """Against torchvision's own loop: means and squares of place and size."""
    draw = np.random.default_rng(3)

    def torchvisions():
        for _ in range(10):
            area = height * width * draw.uniform(0.2, 1.0)
            ratio = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return draw.integers(0, height - h + 1), draw.integers(0, width - w + 1), h, w
        wide = round(height * 4 / 3)
        return (0, (width - wide) // 2, height, wide) if width > height * 4 / 3 else (0, 0, height, width)

    found = policies.draw_resized_crop(np.random.default_rng(1), 6000, height, width, (0.2, 1.0), flip=True)
    theirs = np.array([torchvisions() for _ in range(6000)])
    for power in (1, 2):
        a, b = found[:, :4].astype(float) ** power, theirs.astype(float) ** power
        error = np.sqrt((a.var(0) + b.var(0)) / 6000)
        assert (np.abs(a.mean(0) - b.mean(0)) <= 4.5 * error + 1e-9).all(), power
    assert (found[:, :2] >= 0).all() and (found[:, :2] + found[:, 2:4] <= (height, width)).all()
    assert_share(found[:, 4] == 1, 0.5, 6000)


def test_the_old_draws_are_what_they_were():
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
