"""Measure the spectra of a run's classes at a step and save them to disk."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data import bad_images
from saddle_jax.data.images import Batch
from saddle_jax.data.order import steps_per_epoch
from saddle_jax.data.sources import Splits
from saddle_jax.experiment import config as config_lib
from saddle_jax.host import devices
from saddle_jax.host.lock import exclusive
from saddle_jax.host.memory import free_host_memory, free_memory
from saddle_jax.host.progress import Progress
from saddle_jax.host.signals import StopRequest
from saddle_jax.losses import make_loss
from saddle_jax.methods.choose import make_method
from saddle_jax.schedules import field_schedule, make_schedules
from saddle_jax.spectra import classwise, escape, landscape, plan, record, results
from saddle_jax.spectra.chunks import chunks_of, sound_positions
from saddle_jax.spectra.hvp import MeanLoss, Pieces, Point, Weights, flat_point, hash_of, linear_map_bytes, make_pieces
from saddle_jax.spectra.targets import Target, find_targets
from saddle_jax.spectra.work import Job, Work

# Fields of config.spectra that choose what to measure or how to compute it, but do not affect the numbers.
_NO_SETTING = ("every", "at", "classes", "memory_gib", "probes_at_once", "linearize", "chunk_size")

# Links for which SAM's effect is measured at sam.rho: SAM itself, and SGD, whose runs show what SAM would do.
_WITH_SAMS_RADIUS = ("sgd", "sam")

Paths = Mapping[str, Sequence[Weights]]  # by the names of runs


class Spectrometer:
    """Measure the spectra that a config asks for, at any step of its run. Compiles only once."""

    def __init__(self, config: ConfigDict, splits: Splits):
        """Find the targets and build the method.

        Raises:
          ConfigError: spectra.classes names a class that does not exist or has no images.
        """
        devices.set_mapping(config.mapping)
        self._config, self._splits = config, splits
        self.targets = find_targets(config.spectra.classes, splits.stats, config.eval.rank_bounds)
        in_float32 = config.copy_and_resolve_references()
        in_float32.model.dtype = "float32"  # the layers compute in spectra.dtype
        self._steps_per_epoch = steps_per_epoch(len(splits.train.labels), config.batch_size, config.data.drop_last)
        self._schedules = make_schedules(config, splits.stats, self._steps_per_epoch)
        image_shape = splits.train.images.shape[1:]
        self._method = make_method(in_float32, splits.stats, image_shape, devices.AXIS, self._schedules)
        self._on_cpu = devices.on_cpu()
        parts = devices.num_devices()
        self._chunk_size = plan.chunk_size(config.spectra, image_shape, parts, on_cpu=self._on_cpu)
        self._loss = config.loss.name if config.spectra.loss == "training" else config.spectra.loss
        self.logit_scale = 1.0
        if config.model.head == "normed":
            self.logit_scale = config.spectra.logit_scale or config.loss.logit_scale
        self._pieces: Pieces | None = None
        self._unravel: Callable[[jax.Array], Any]

    def another(self, config: ConfigDict, splits: Splits) -> Spectrometer:
        """Return one for a run with the same model, loss, and class sizes; both share the compiled functions."""
        other = Spectrometer(config, splits)
        other._pieces = self._pieces
        return other

    def describe(self) -> str:
        """Return a one-line description of the measurement."""
        spectra = self._config.spectra
        measured = results.conditions(self._loss_settings())
        return f"{measured}; un-augmented training images; {spectra.probes} probes x {spectra.steps} steps"

    def _loss_settings(self) -> dict[str, Any]:
        fields = {k: v for k, v in config_lib.flatten(self._config.spectra).items() if k not in _NO_SETTING}
        return {**fields, "loss": self._loss, "logit_scale": self.logit_scale}

    def settings(self, state: Weights, paths: Paths) -> dict[str, Any]:
        """Return everything that the numbers depend on."""
        fields = self._loss_settings()
        if self._config.spectra.batch_norm == "train":
            fields["chunk_size"] = [self._chunk_size, devices.num_devices()]
        if self._config.spectra.landscape:
            fields["paths"] = {name: {str(int(one.step)): hash_of(one) for one in run} for name, run in paths.items()}
        return {
            **fields,
            "rho": self._rho(int(state.step)),
            "weights": hash_of(state),
            "content_hash": self._splits.content_hash,
        }

    def measure(
        self,
        state: Weights,
        workdir: pathlib.Path,
        *,
        paths: Paths | None = None,
        stop: StopRequest | None = None,
        quiet: bool = False,
    ) -> pathlib.Path:
        """Measure every target that is not on disk yet, and return the folder.

        Args:
          state: weights to measure, on the host.
          workdir: directory of the run.
          paths: weights that runs passed, by the runs' names, to see on the plane of `spectra.landscape`.
          stop: a signal to watch for.
          quiet: show no progress.

        Raises:
          WorkdirInUse: another process is measuring this step.
          Preempted: a signal arrived. Finished targets are kept.
          ConfigError: the plan in the config does not fit into memory.
          NonFiniteError, OperatorError: see `classwise.measure`.
        """
        step = int(state.step)
        with exclusive(workdir / "spectra" / ".locks" / str(step), "wait for it, or measure another --checkpoint"):
            return self._measure(state, step, workdir, paths or {}, stop, quiet=quiet)

    def _measure(
        self,
        state: Weights,
        step: int,
        workdir: pathlib.Path,
        paths: Paths,
        stop: StopRequest | None,
        *,
        quiet: bool,
    ) -> pathlib.Path:
        header = results.Header(step, step / self._steps_per_epoch, self.settings(state, paths))
        folder, finished = results.open_folder(workdir, header)
        missing = [target for target in self.targets if target.name not in finished]
        if not missing:
            return folder
        with devices.exact_arithmetic(self._config.spectra.dtype):
            point = self._prepare(state)
            jobs = [self._job(target, point) for target in missing]
            progress = Work(
                Progress(sum(job.num_chunks * job.num_products for job in jobs), 1, 0, unit="", quiet=quiet), stop
            )
            for target in self.targets:
                if target.name in finished:
                    progress.say(f"{target.name:9s}", record.one_line(finished[target.name]) + "  (measured before)")
            for job in jobs:
                progress.start(job)
                self._measure_target(job, point, paths, folder, header, progress)
        return folder

    def _prepare(self, state: Weights) -> Point:
        """Put the weights on the devices, and build the pieces if they do not exist yet."""
        weights_C = np.ones(self._splits.stats.num_classes)
        if self._config.spectra.class_weights == "training":
            weights_C = np.asarray(self._schedules.class_weights(int(state.step)))
        measured = self._method.trained if self._config.spectra.parameters == "trained" else None
        dtype = self._config.spectra.dtype
        point, self._unravel = flat_point(state.params, state.model_state, weights_C, dtype, measured)
        if self._pieces is None:
            loss_fn = make_loss(self._config, self._splits.stats, self.logit_scale, self._loss)
            train_mode = self._config.spectra.batch_norm == "train"
            self._pieces = make_pieces(self._method, loss_fn, self._unravel, train_mode=train_mode)
        return point

    def _job(self, target: Target, point: Point) -> Job:
        assert self._pieces is not None
        spectra, positions = self._config.spectra, self._images_of(target)
        num_chunks = -(-len(positions) // self._chunk_size)
        device, host = free_memory()  # each target frees its memory before the next one begins
        asked = round(spectra.memory_gib * 2**30)
        chosen = plan.make_plan(
            spectra,
            plan.Memory(asked or device // 2, host // 2),
            num_parameters=point.params_P.size,
            num_chunks=num_chunks,
            linear_map_bytes=linear_map_bytes(self._pieces, point, next(iter(self._chunks(positions)))),
            on_cpu=self._on_cpu,
        )
        return Job(target, positions, chosen, num_chunks, spectra.probes * min(spectra.steps, point.params_P.size))

    def _measure_target(
        self, job: Job, point: Point, paths: Paths, folder: pathlib.Path, header: results.Header, progress: Work
    ) -> None:
        assert self._pieces is not None
        spectra, target, chosen, began = self._config.spectra, job.target, job.plan, time.monotonic()
        chunks = list(self._chunks(job.positions))
        sound = sound_positions(job.positions, chunks, target.title)
        if masked := len(job.positions) - len(sound):
            workdir = folder.parents[1]
            bad_images.record(workdir, self._splits.train.images.bad_lines().values())
            named = f"{workdir / bad_images.FILE} names them"
            progress.say("note", f"{target.title}: left out {masked} bad images of {len(job.positions)}; {named}")
        mean_loss = MeanLoss(self._pieces, point, chunks, width=chosen.probes_at_once)
        if chosen.linearize:
            mean_loss.linearize(progress.poll)
        spectrum = classwise.measure(
            mean_loss,
            steps=spectra.steps,
            probes=spectra.probes,
            seed=spectra.seed,
            basis=chosen.basis,
            variance=spectra.density_variance,
            what=f"spectrum of {target.title}",
            on_step=progress.step,
        )
        along = self._escape(sound, mean_loss, spectrum, header.settings["rho"], progress)
        seen = self._landscape(mean_loss, spectrum, header.settings["rho"], paths, progress)
        summary = {
            "title": target.title,
            "classes": target.classes.tolist(),
            "images": mean_loss.images,
            **record.numbers(spectrum),
            "escape": along.summary(spectrum.smallest.value) if along else None,
            "probes": spectra.probes,
            "steps": int(spectrum.tridiagonal.lengths_S.max()),
            "products": mean_loss.products,
            "linearized": chosen.linearize,
            "basis": chosen.basis,
            "seconds": round(time.monotonic() - began, 2),
        }
        arrays = record.arrays(spectrum, along, self._unravel if spectra.eigenvectors else None)
        arrays |= seen.arrays() if seen else {}
        results.save(folder, header, target.name, summary, arrays)
        progress.say(f"{target.name:9s}", record.one_line(summary))

    def _escape(
        self, positions: np.ndarray, whole: MeanLoss, spectrum: classwise.Spectrum, rho: float, progress: Work
    ) -> escape.Escape | None:
        spectra = self._config.spectra
        if spectrum.smallest.value >= 0:
            return None

        def minibatch(number: int) -> MeanLoss:
            drawn = np.random.default_rng([spectra.seed, number]).choice(positions, spectra.escape_batch_size)
            return whole.over(list(self._chunks(drawn)))

        return escape.measure_escape(
            whole,
            minibatch,
            spectrum.smallest.vector_P,
            spectrum.smallest.value,
            rho=rho,
            batches=spectra.escape_batches,
            radius=self._radius(rho),
            on_step=progress.poll,
        )

    def _landscape(
        self,
        whole: MeanLoss,
        spectrum: classwise.Spectrum,
        rho: float,
        paths: Paths,
        progress: Work,
    ) -> landscape.Landscape | None:
        if not self._config.spectra.landscape:
            return None

        def stops(run: Iterable[Weights]) -> Iterator[landscape.Stop]:
            for weights in run:
                progress.poll()
                passed = whole.at(self._prepare(weights))
                yield landscape.Stop(int(weights.step), passed.params_P, passed.loss())

        return landscape.measure_landscape(
            whole,
            spectrum.smallest,
            spectrum.largest,
            {name: stops(run) for name, run in paths.items()},
            radius=self._radius(rho),
            on_step=progress.poll,
        )

    def _radius(self, rho: float) -> float:
        """Return how far the loss is followed along a direction."""
        return self._config.spectra.slice_radius or 2 * rho or 1.0

    def _rho(self, step: int) -> float:
        """Return the radius for measuring SAM's effect; 0 if the run's link has no radius comparable to SAM's."""
        last = self._schedules.total_steps - 1
        if self._config.spectra.rho or self._config.optim.name not in _WITH_SAMS_RADIUS:
            return self._config.spectra.rho
        return float(field_schedule(self._config.sam, "rho", self._schedules)(min(step, last)))

    def _images_of(self, target: Target) -> np.ndarray:
        return np.flatnonzero(np.isin(self._splits.train.labels, target.classes))

    def _chunks(self, positions: np.ndarray) -> Iterator[Batch]:
        return chunks_of(self._splits.train, positions, self._chunk_size, free_host_memory())
