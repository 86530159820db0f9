"""A folder of real photographs with its lists, and Pillow's version of torchvision's transforms to compare with.

The transforms are written from torchvision's documentation and source: RandomResizedCrop, ColorJitter, Resize,
CenterCrop on PIL images.
"""

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from configs import digits_lt

COUNTS = (3, 14, 1, 8, 14)  # training images of the labels 0 to 4; two of a size
BY_SIZE = (1, 4, 3, 0, 2)  # labels by falling size, equal ones in order


def photograph(seed, width, height):
    """Return a part of one of two photographs, scaled to a size."""
    photos = load_sample_images().images
    draw = np.random.default_rng(seed)
    photo = Image.fromarray(photos[draw.integers(2)])
    side = int(draw.integers(150, 400))
    left, top = (int(draw.integers(0, n - side)) for n in photo.size)
    return photo.crop((left, top, left + side, top + side)).resize((width, height), Image.Resampling.BICUBIC)


def write_folder(root, *, counts=COUNTS, size=(60, 45), validation=2, test=3):
    """Write photographs of some classes under `root` with train.txt, val.txt, test.txt; return the lists' lines."""
    lists = {}
    for name, images in (("train", counts), ("val", [validation] * len(counts)), ("test", [test] * len(counts))):
        lines = []
        for label, count in enumerate(images):
            folder = root / name / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 1000 * label + 100 * len(lists) + number
                width, height = (n + seed % 7 for n in size)
                path = folder / f"{number}.JPEG"
                photograph(seed, width, height).save(path, quality=80 + seed % 15)
                lines.append(f"{path.relative_to(root)} {label}")
        lists[name] = lines
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return lists


def list_config(root, method="ce_drw", **changes):
    """Return the config of a run of seconds on such a folder."""
    config = digits_lt.get_config(f"{method},smoke")
    config.duration, config.eval.every, config.checkpoint_every = "6 steps", "3 steps", "2 steps"
    config.log_every, config.batch_size, config.eval.batch_size = "3 steps", 16, 16
    data = config.data
    data.source, data.name, data.root, data.profile = "image_list", "photos", str(root), "as_is"
    data.train_list, data.validation_list, data.test_list = "train.txt", "val.txt", "test.txt"
    data.augmentation, data.color_jitter, data.crop_padding, data.flip = "random_resized_crop", 0.4, 0, True
    data.image_size, data.eval_resize = 32, 36
    data.mean, data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def crop_of(uniform, height, width, smallest=0.08):
    """Return torchvision's RandomResizedCrop.get_params, its random numbers taken from `uniform`: top, left, h, w.

    Args:
      smallest: part of the image that it covers.
    """
    log_ratio = math.log(3 / 4), math.log(4 / 3)
    for attempt in range(10):
        area = height * width * (smallest + uniform[2 * attempt] * (1 - smallest))
        ratio = math.exp(log_ratio[0] + uniform[2 * attempt + 1] * (log_ratio[1] - log_ratio[0]))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(uniform[20] * (height - h + 1)), int(uniform[21] * (width - w + 1)), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * (4 / 3)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def augmented(image, uniform, size, strength, smallest=0.08):
    """Return the training transform of a Pillow image."""
    top, left, h, w = crop_of(uniform, image.height, image.width, smallest)
    image = image.crop((left, top, left + w, top + h)).resize((size, size), Image.Resampling.BILINEAR)
    if uniform[22] >= 0.5:
        image = ImageOps.mirror(image)
    return np.asarray(jittered(image, uniform, strength))


def jittered(image, uniform, strength):
    """Return ColorJitter's brightness, contrast and saturation, in the order that the last random number names."""
    import itertools

    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    order = list(itertools.permutations(range(3)))[int(uniform[26] * 6)]
    for change in order:
        factor = np.float32(1 - strength + 2 * strength * uniform[23 + change])
        image = changes[change](image).enhance(float(factor))
    return image


def centered(image, size, resize):
    """Return Resize(resize) and CenterCrop(size) of a Pillow image."""
    short = min(image.size)
    width, height = (int(resize * n / short) for n in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))
