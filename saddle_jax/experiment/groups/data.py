"""Fields of images: `config.data`."""

from __future__ import annotations

from saddle_jax.experiment.catalogue import AUGMENTATIONS, ENTRIES
from saddle_jax.experiment.fields import (
    choice,
    entry_name,
    flag,
    is_numbers,
    items,
    number,
    random_seed,
    text,
)

DATA = {
    "source": entry_name("digits", "where images come from", ENTRIES["data.source"]),
    "name": text(
        "", "tfds: the data set, e.g. cifar10 or cifar10:3.0.2; image_list: imagenet_lt, inat18, places_lt, or your own"
    ),
    "path": text("", "arrays: the .npz file", may_change=True),
    "root": text(
        "",
        "folder: the folder that holds a folder for each class; image_list: the folder of the lists and images; tfds: "
        "the folder of prepared sets, where '' is the default of tfds",
        may_change=True,
    ),
    "fit_to_images": flag(
        False,
        "folder: look at the images, and choose from them the image size, network, normalization, augmentation, batch "
        "size, and epochs; fields set on the command line keep their values",
    ),
    "train_list": text(
        "",
        "image_list: file of `path label` lines, or CSV with columns path, label, and optionally split; '' is the list "
        "of data.name",
        may_change=True,
    ),
    "validation_list": text(
        "",
        "image_list: the list of images that choose the best epoch; '' is the list of data.name, the split of "
        "train_list, or none",
        may_change=True,
    ),
    "test_list": text(
        "",
        "image_list: the list of test images; '' is the list of data.name, the split of train_list, or a part of it",
        may_change=True,
    ),
    "train_split": text("train", "tfds: training images, as any split expression, e.g. train[:80%]"),
    "test_split": text("test", "tfds: test images, as any split expression"),
    "validation_split": text(
        "", "encoded tfds: images that choose the best epoch, as any split expression; '' is none"
    ),
    "image_size": number(
        0,
        "tfds, image_list, folder: side of the images that the network sees, in pixels",
        at_least=1,
        unit="pixels",
        zero="to leave a set in memory as it is",
    ),
    "profile": choice(
        "exp",
        "how class sizes fall from the first class to the last",
        {
            "exp": "exponentially",
            "step": "n_max for the first half, n_max / ratio for the others",
            "as_is": "the set's own sizes",
        },
    ),
    "ratio": number(
        100.0, "largest class over smallest, n_max / n_min; papers call it imbalance factor or rho", at_least=1
    ),
    "largest_class": number(
        0, "images of the largest class, n_max", at_least=1, unit="images", zero="for the most that the set allows"
    ),
    "subset_seed": random_seed("seed of the long-tailed subset, and of the digits' test images"),
    "allow_empty_classes": flag(False, "accept classes that end up with no training image"),
    "test_fraction": number(
        0.2,
        "arrays, folder, image_list: part of every class that becomes test images if the set has none of its own",
        at_least=0.01,
        at_most=0.9,
    ),
    "validation_fraction": number(
        0.0, "part of every class's training images that is held out for validation", at_least=0, at_most=0.5
    ),
    "validation_floor": number(
        20, "images that a class keeps for training before it gives any to validation", at_least=1, unit="images"
    ),
    "sampling": choice(
        "instance",
        "how often a class is drawn",
        {
            "instance": "each image once per epoch",
            "balanced": "all classes equally often",
            "effective": "in proportion to n times the effective-number weight",
        },
    ),
    "pipeline": choice(
        "auto",
        "how batches reach the training steps",
        {
            "auto": "tfdata for encoded images; else workers for a policy; else resident if all images fit into a "
            "quarter of a device's memory; else tfdata, or numpy without TensorFlow",
            "resident": "images stay on the devices",
            "tfdata": "tf.data",
            "workers": "processes that augment with Pillow",
            "numpy": "NumPy on the host",
        },
        may_change=True,
    ),
    "augmentation": choice("crop_flip", "how training images are augmented", AUGMENTATIONS),
    "color_jitter": number(
        0.0,
        "encoded images, except with simclr: brightness, contrast, and saturation are scaled by 1 - this to 1 + this",
        at_least=0,
        at_most=1,
    ),
    "eval_resize": number(
        0, "encoded images: length of the shorter side in evaluation, before the center crop", at_least=0, unit="pixels"
    ),
    "exif_orientation": flag(True, "image files: turn each one as its EXIF orientation says, as a photo viewer does"),
    "max_bad_fraction": number(
        0.0,
        "part of the images of a folder, or of the encoded training images, that may be undecodable; those are left "
        "out or masked. 0 stops the run at the first one",
        at_least=0,
        less_than=1,
        may_change=True,
    ),
    "check_decode": flag(
        False, "--mode check decodes every image of an image_list or of array_record files", may_change=True
    ),
    "drop_last": flag(False, "leave out the last batch of an epoch if it is incomplete"),
    "crop_padding": number(
        4,
        "sets in memory, except with simclr: zeros on each side before the random crop; 0 means no crop",
        at_least=0,
        unit="pixels",
    ),
    "flip": flag(True, "mirror half of the training images left to right"),
    "mean": items(
        (0.5,),
        "mean of each channel, which the step subtracts, in units of 255",
        expected="one number per channel, e.g. (0.5,) or (0.49, 0.48, 0.45)",
        is_sound=is_numbers,
    ),
    "std": items(
        (0.5,),
        "standard deviation of each channel, by which the step divides, in units of 255",
        expected="one number above 0 per channel, e.g. (0.5,) or (0.25, 0.24, 0.26)",
        is_sound=lambda value: is_numbers(value) and min(value) > 0,
    ),
}
