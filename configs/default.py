"""Every field of an experiment, with its unit. An experiment file states only its differences.

Durations and positions are written as they are read: "200 epochs", "3000 steps", or "80%" of the run.
In a knot ((position, value), ...) a bare number counts epochs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the default of every field."""
    config = ConfigDict()

    config.name = "experiment"  # first part of the default workdir's name
    config.seed = 0  # initialisation, order, augmentation, re-sampling: all that is random but the subset
    config.start_from = ""  # a run's directory, or that of several seeds' runs, whose weights this run starts from: the
    # parameters and BatchNorm's statistics of its newest checkpoint, nothing of its optimizer; "" are random ones
    config.num_seeds = 1  # seed, seed + 1, ...: that many runs, each in a seed-<n>/ of the workdir if more than one
    config.seeds_at_once = 0  # runs that share a step; 0: all of them, on CPUs 1
    config.batch_size = 128  # images a step, over all devices together
    config.micro_batches = 1  # into how many a device's images of a step are cut, one after the other, to save memory
    config.duration = "200 epochs"  # length of training

    config.method = "plain"  # what is minimised: plain (one network, one loss) | glmc | paco | retrain (start_from's
    # network, of which only the classifier is trained; CC-SAM's second stage)

    config.data = ConfigDict()
    config.data.source = "digits"  # digits | arrays | image_list | tfds
    config.data.name = ""  # tfds: name of the set, e.g. cifar10 or cifar10:3.0.2; image_list: imagenet_lt, inat18, own
    config.data.path = ""  # arrays: an .npz with train_images, train_labels, test_images, test_labels
    config.data.root = ""  # image_list: folder of lists and images; tfds: of prepared sets, "" is its own default
    config.data.train_list = ""  # image_list: `path label` lines; under data.root, or absolute; "" is data.name's own
    config.data.validation_list = ""  # image_list: likewise; chooses the best epoch; "" is data.name's own, or none
    config.data.test_list = ""  # image_list: likewise
    config.data.train_split = "train"  # tfds: any split expression, e.g. train[:80%]
    config.data.test_split = "test"  # tfds: likewise
    config.data.validation_split = ""  # encoded tfds: likewise; chooses the best epoch; "" is none
    config.data.image_size = 0  # tfds, image_list: pixels a side of what the network sees; 0 leaves a tfds set as it is
    config.data.profile = "exp"  # exp | step | as_is: how class sizes fall from the first class to the last
    config.data.ratio = 100.0  # n_max / n_min, largest class over smallest ("imbalance factor", "rho" in papers)
    config.data.largest_class = 0  # n_max in images; 0 takes the most that the set allows
    config.data.subset_seed = 0  # chooses the long-tailed subset (and the digits' test images)
    config.data.allow_empty_classes = False  # accept classes that end with no training image
    config.data.validation_fraction = 0.0  # part of every class's training images that is held out, 0 to 0.5
    config.data.validation_floor = 20  # images that a class keeps for training before it gives any to validation
    config.data.sampling = "instance"  # instance | balanced | effective: how often a class is drawn
    config.data.pipeline = "auto"  # auto | resident (images stay on the devices) | tfdata | workers (processes) | numpy
    # auto is resident where all images fit into a quarter of a device's memory, else tf.data where it is installed;
    # with autoaugment, randaugment and simclr, which run on the host, workers. Encoded images are always tfdata
    config.data.augmentation = "crop_flip"  # crop_flip | autoaugment (crop_flip, CIFAR AutoAugment, Cutout of 16) |
    # randaugment (the usual crop, mirror and jitter, then 2 operations at magnitude 10) | simclr (resized crop of 0.2
    # to 1, colours, grey, blur) | random_resized_crop. The first two are for sets in memory, the last one for encoded
    # images: image_list, and tfds as array_record, whose images stay encoded until a batch asks for them (of tfds with
    # randaugment or simclr: where eval_resize is set)
    config.data.color_jitter = 0.0  # encoded images, but with simclr: brightness, contrast, saturation times 1 - this
    # to 1 + this
    config.data.eval_resize = 0  # encoded images: evaluation's pixels of the shorter side, before the centre crop
    config.data.max_bad_fraction = 0.0  # of the training images that may be undecodable: masked; 0 stops at the first
    config.data.check_decode = False  # --mode check decodes every image of an image_list or array_record
    config.data.drop_last = False  # leave out an epoch's last batch where it is incomplete
    config.data.crop_padding = 4  # sets in memory, but with simclr: pixels of zero padding on each side before the
    # random crop; 0 is no crop
    config.data.flip = True  # mirror half of the training images left to right
    config.data.mean = (0.5,)  # per channel, in units of 255; subtracted inside the step
    config.data.std = (0.5,)  # per channel, in units of 255; divided by inside the step

    config.model = ConfigDict()
    config.model.name = "resnet32"  # small images: resnet8 | resnet20 | resnet32 | resnet44 | resnet56 | resnet110,
    # wide_resnet32 (four times the filters: 7.4 million parameters) | cifar_resnet34 (21 million);
    # large ones: resnet10 | resnet50 | resnet101 | resnet152 | resnext50_32x4d; each takes images of any size
    config.model.width = 1.0  # factor on the filters, a ResNeXt's in each group; only 1 is the paper's network
    config.model.head = "linear"  # linear | normed (cosine logits; LDAM's)
    config.model.dtype = "float32"  # float32 | bfloat16: arithmetic of the layers; parameters stay float32
    config.model.kernels = (
        "auto"  # auto | lax | onednn: what computes layers on CPUs. onednn is the package in native/;
    )
    # auto takes it where it is installed. In float64, and on other devices, it is lax (XLA) always
    config.model.batch_norm = "per_device"  # per_device | synchronized: whose statistics normalise a batch
    config.model.batch_norm_momentum = 0.1  # weight of the new batch in the running statistics (PyTorch's sense)
    config.model.remat = False  # compute blocks again in the backward pass: less memory for one more forward pass.
    # ResNet-50, 256 images of 224 pixels, bf16: 32.7 GiB are kept between the passes without it; with it XLA:CPU's
    # compiler counts 8.5 GiB of temporaries with its barrier-dropping pass disabled, which undoes remat on CPUs. Not
    # measured on an accelerator

    config.loss = ConfigDict()
    config.loss.name = "ce"  # ce | focal | ldam | la | cdt | vs
    config.loss.class_weights = "none"  # none | reweight (from the start) | drw (from drw_start)
    config.loss.drw_start = "80%"  # position from which deferred re-weighting acts
    config.loss.effective_beta = 0.9999  # of the effective number (1 - beta^n) / (1 - beta)
    config.loss.focal_gamma = 1.0
    config.loss.ldam_max_margin = 0.5  # margin of the rarest class, in units of the cosine
    config.loss.logit_scale = 30.0  # s: factor on a normed head's logits inside LDAM
    config.loss.vs_gamma = 0.3  # exponent of VS's and CDT's multiplicative adjustment
    config.loss.vs_tau = 1.0  # factor of VS's and LA's additive adjustment

    config.glmc = ConfigDict()  # method=glmc
    config.glmc.resample_power = 0.0  # r: the second stream draws an image in proportion to n^-r of its class
    config.glmc.label_weight_power = 1.0  # l: labels of the balanced classifier are weighted in proportion to n^-l
    config.glmc.contrast = 4.0  # kappa: factor on the contrastive term
    config.glmc.projection_dim = 128  # numbers that the contrastive term compares
    config.glmc.beta = 1.0  # b: a batch's mixing part is drawn from Beta(b, b)
    config.glmc.contrast_in_ascent = False  # SAM also perturbs along the contrastive term
    config.glmc.area_corrected = False  # CutMix's labels follow the pasted area, not the part it was drawn for

    config.paco = ConfigDict()  # method paco
    config.paco.alpha = 0.05  # weight of each image with the query's label among what the query is drawn to
    config.paco.beta = 1.0  # weight of the query's class there
    config.paco.gamma = 1.0  # weight of all other images among what the query is pushed from
    config.paco.temperature = 0.2  # divides similarities of images, which are cosines; not the classes' logits
    config.paco.queue_size = 8192  # keys of earlier steps that queries are compared with; a multiple of batch_size
    config.paco.dim = 128  # numbers that stand for an image there
    config.paco.momentum = 0.999  # part of the key encoder that a step keeps; the rest is the query's network
    config.paco.key_augmentation = "simclr"  # as data.augmentation, which is the query's
    config.paco.queue_init = "normalized"  # normalized | published (not keys of length 1, but columns of the queue)

    config.retrain = ConfigDict()  # method=retrain
    config.retrain.feature_noise = 1.0  # length of a class's perturbation of its images' features, times the class's
    # weight log(n_max / n + 0.01) / 2
    config.retrain.flat_limit = 1.0  # highest part of the loss that is that of perturbed features, weighted by class;
    # it rises from 0 to 1 over the run. 0 is re-training on class-balanced draws alone

    config.optim = ConfigDict()
    config.optim.name = "sgd"  # sgd | pgd | cnc_pgd | lpf_sgd | sam | asam | imbsam | cc_sam | sse_sam | focal_sam |
    # le_sam: the link that gradients pass before weight decay and momentum; sgd is none, one gradient a step
    config.optim.momentum = 0.9
    config.optim.weight_decay = 2e-4  # on all parameters, as in the reference
    config.optim.lr_knots = ((0, 0.1),)  # learning rate from each position on
    config.optim.lr_interpolation = "constant"  # constant | linear | cosine between knots, one value an epoch

    config.sam = ConfigDict()  # what all links but sgd share
    config.sam.rho_knots = ((0, 0.05),)  # size of the perturbation from each position on: its radius in the parameters;
    # pgd: of the noise in the gradient; cnc_pgd: the perturbing step over the learning rate; lpf_sgd: the noise over a
    # filter's length; cc_sam: a factor on the classes' radii; le_sam: by how much the loss is to rise
    config.sam.rho_interpolation = "constant"  # constant | linear | cosine between knots, one value an epoch
    config.sam.perturbation = "shared"  # shared (of the whole batch) | per_device (m-sharpness; sam and asam)
    config.sam.batch_stats = "both"  # first | second | both | frozen: passes that move BatchNorm's running statistics;
    # second is the last one of a link that makes more

    config.pgd = ConfigDict()  # optim.name=pgd
    config.pgd.threshold = 0.0  # noise only where the gradient is at most this long; 0 is at every step
    config.cnc_pgd = ConfigDict()
    config.cnc_pgd.threshold = 0.0  # the perturbing step only where the gradient is at most this long; 0 is always
    config.lpf_sgd = ConfigDict()
    config.lpf_sgd.samples = 1  # noisy gradients that a step averages, each of the whole batch
    config.asam = ConfigDict()
    config.asam.eta = 0.01  # added to each weight's size
    config.imbsam = ConfigDict()
    config.imbsam.tail_below = 0  # the tail is the classes of fewer training images; 0: that of eval.rank_bounds
    config.cc_sam = ConfigDict()
    config.cc_sam.flat_ratio = 0.5  # how much of the gradient is that of the perturbed classifiers
    config.sse_sam = ConfigDict()
    config.sse_sam.tail_below = 0  # as imbsam.tail_below
    config.sse_sam.head_factor = 0.5  # the head's radius over the tail's
    config.sse_sam.switch_at = "70%"  # position from which the head is not perturbed any more
    config.focal_sam = ConfigDict()
    config.focal_sam.gamma = 3.0  # a class's sharpness counts (1 - its part of the images)^gamma
    config.focal_sam.sharpness_weight = 0.5  # lambda: of the sharpness beside the loss
    config.le_sam = ConfigDict()
    config.le_sam.rho_max = 0.0  # the longest perturbation; 0 is any

    config.eval = ConfigDict()
    config.eval.every = "5 epochs"
    config.eval.batch_size = 500  # images, over all devices together; rounded up to what the devices divide
    config.eval.rank_bounds = ()  # head is classes [0, a), mid [a, b), tail [b, C); () is 30 % and 70 % of C

    config.spectra = ConfigDict()  # --mode spectra, and during training; changes nothing about the training
    config.spectra.every = ""  # during training: a duration such as "20 epochs"; "" is never
    config.spectra.at = ()  # during training: further positions, e.g. (10, 50, "80%"); a bare number counts epochs
    config.spectra.classes = "auto"  # comma-separated: class indices or names, head mid tail many medium few,
    # whole (the training set), each (every class); auto is every class, or ten evenly spaced in size of more than ten
    config.spectra.loss = "ce"  # ce | training (loss.name) | focal | ldam | la | cdt | vs
    config.spectra.class_weights = "none"  # none | training (those of the step); one class alone has no use for them
    config.spectra.logit_scale = 0.0  # factor on a normed head's logits; 0 is as trained, 1 the reference's analysis
    config.spectra.batch_norm = "eval"  # eval (running statistics) | train (each chunk's own, on each device)
    config.spectra.dtype = "float32"  # float32 (products at highest precision) | float64
    config.spectra.steps = 100  # of Lanczos, a probe
    config.spectra.probes = 10  # random start vectors; 2 or more give the density a spread
    config.spectra.seed = 0  # draws the probes
    config.spectra.basis = "auto"  # auto | device | host | none: where Lanczos keeps steps x parameters numbers
    config.spectra.linearize = "auto"  # auto | always | never: keep each chunk's linearisation between products
    config.spectra.memory_gib = 0.0  # a device, for basis and linearisation; 0 is half of what is free
    config.spectra.chunk_size = 0  # images a product takes at once, all devices together; 0: 8 a device on CPUs
    config.spectra.probes_at_once = 0  # vectors that a product takes at once; 0: 1 on CPUs, what fits on others
    config.spectra.density_variance = 1e-5  # of the Gaussian at each Ritz value, times max(1, largest - smallest)
    config.spectra.eigenvectors = False  # keep those of the largest and the smallest eigenvalue
    config.spectra.escape_batches = 32  # minibatches for what SAM does along the most negative direction; 0 is none
    config.spectra.escape_batch_size = 16  # images of each, drawn from the class
    config.spectra.rho = 0.0  # SAM's radius there; 0 is that of sam.rho_knots at the step with sgd and sam, and
    # none with another link
    config.spectra.slice_radius = 0.0  # how far the loss is followed along it, in units of the weights; 0 is twice rho

    config.steps_at_once = 0  # that a device takes without coming back; resident only; 0: an epoch, on CPUs 1
    config.checkpoint_every = "10 epochs"
    config.log_every = "50 steps"
    config.watchdog_secs = 900  # seconds without progress after which the process ends with code 75; 0 is never
    # (four times as many for what has to be compiled first)
    config.precision = "default"  # default | high | highest: of float32 products on accelerators
    config.compilation_cache = ""  # folder that keeps what was compiled for later processes on this machine; "" is none
    config.tensorboard = True  # write TensorBoard events where TensorFlow is installed
    return config
