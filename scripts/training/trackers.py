"""Trackers of --report_to whose files lie in the run folder and hold all of a run."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from training.run_folder import TRACKER_FOLDERS

# What tells each tracker where to write.
VARIABLES = ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR")


class WholeRunTrackio(TrackioCallback):
    """Trackio that takes what comes after the training, too.

    transformers finishes a run when its training ends, and then fails at the evaluation.
    """

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Leave the run open."""

    def finish(self) -> None:
        """Write what is still held back."""
        if self._initialized and self._trackio.context_vars.current_run.get() is not None:
            self._trackio.finish()


def check_trackers(report_to: Collection[str]) -> None:
    """Check that the trackers of --report_to are there.

    Raises: ValueError: transformers knows no such tracker, or its package is not installed.
    """
    for name, tracker in zip(
        report_to, get_reporting_integration_callbacks(report_to), strict=True
    ):
        try:
            tracker()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"--report_to {name}: {error}") from error


def keep_trackers_here(output_dir: Path, report_to: Collection[str]) -> None:
    """Have the trackers write into the run folder, unless told where to.

    Elsewhere than in the run folder a job's would be lost with its machine, and those of a run
    that goes on after an interruption would lie in two places.
    """
    for variable, name in zip(VARIABLES, TRACKER_FOLDERS, strict=True):
        if name in report_to:
            os.environ.setdefault(variable, str(output_dir.resolve() / name))


def track_whole_run(trainer: Trainer) -> None:
    """Keep Trackio open until `close_trackers`."""
    if trainer.pop_callback(TrackioCallback) is not None:
        trainer.add_callback(WholeRunTrackio)


def close_trackers(trainer: Trainer) -> None:
    """Have the trackers write what they hold of evaluation and prediction."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.on_train_end(trainer.args, trainer.state, trainer.control)
        elif isinstance(callback, WholeRunTrackio):
            callback.finish()
