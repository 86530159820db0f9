"""Send a run to MLflow. The settings of its environment variables, such as MLFLOW_TRACKING_URI, apply."""

from __future__ import annotations

import csv
import io
import os
import pathlib
import time
from collections.abc import Sequence

import mlflow  # pyright: ignore[reportMissingImports]
from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

from saddle_jax.tracking.about import About
from saddle_jax.tracking.follow import Classes, Record, State

_METRICS, _PARAMS = 1000, 100  # that MLflow takes in one call


class MLflow:
    """A run of MLflow."""

    def __init__(self, about: About, state: State):
        self._client = mlflow.MlflowClient()
        try:
            self._client.update_run(state.own["run"], status="RUNNING")
        except (KeyError, MlflowException) as error:
            if getattr(error, "error_code", "") not in ("", "RESOURCE_DOES_NOT_EXIST"):
                raise
            state.sent.clear()  # this server has nothing of the run
            state.own["run"] = self._create(about)
        self._run = state.own["run"]
        state.own["where"] = f"run {self._run} at {mlflow.get_tracking_uri()}"

    def _create(self, about: About) -> str:
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", about.project))
        tags = {"group": about.group} if about.group else {}
        run = self._client.create_run(experiment.experiment_id, run_name=about.name, tags=tags).info.run_id
        params = [Param(name, str(value)) for name, value in about.hyperparameters.items()]
        for start in range(0, len(params), _PARAMS):
            self._client.log_batch(run, params=params[start : start + _PARAMS])
        return run

    def scalars(self, records: Sequence[Record]) -> None:
        now = time.time_ns() // 10**6
        metrics = [Metric(name, value, now, record.step) for record in records for name, value in record.values.items()]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + _METRICS])

    def classes(self, step: int, classes: Classes) -> None:
        table = io.StringIO()
        csv.writer(table).writerows([("class", "training images", "accuracy"), *classes.rows()])
        self._client.log_text(self._run, table.getvalue(), f"classes/{classes.split}-{step}.csv")

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        self._client.log_image(self._run, mlflow.Image(str(path)), key=name, step=step)

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")
