"""Search hyperparameters on this machine, trial by trial: `tune.py --local`.

Each trial is scripts/train.py, in a folder of its own. A trial enters the study on disk when it has
ended, and a sampler draws each point from the trials before it and a seed of its own: a search that
was killed at any moment goes on with the same command to the same table.
"""

import contextlib
import ctypes
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from jobs.metric_definitions import is_better_when_larger, metric_values
from jobs.search_space import BATCH_SIZE, EPOCHS, LEARNING_RATE, SearchSpace
from launching.train_flags import SCRIPTS, as_flags
from launching.tuned_hyperparameters import Trial, tuned_values

STUDY = "study.db"
LOG = "train.log"
SEED = 42
# Points at random, before the sampler has something to learn from.
NUM_RANDOM_TRIALS = 5
# An epoch is judged by the median of the trials before; the first epoch says little.
NUM_TRIALS_BEFORE_PRUNING = 3
FIRST_JUDGED_EPOCH = 2
SECONDS_BETWEEN_LOOKS = 0.2
STATUS = {
    TrialState.COMPLETE: "Completed",
    TrialState.PRUNED: "Stopped",
    TrialState.FAIL: "Failed",
}
# train.py takes no two GPUs in one process. What the user has set goes before.
ONE_GPU = {"CUDA_VISIBLE_DEVICES": "0"}
PR_SET_PDEATHSIG = 1  # Source: linux/prctl.h


@dataclass(frozen=True)
class LocalSearch:
    """What a search on this machine is.

    Args:
        hyperparameters: train.py's flags that all trials share.
        dataset: folder of data_prep/build_dataset.py.
        objective: one of search_space.OBJECTIVES.
    """

    hyperparameters: Mapping[str, Any]
    space: SearchSpace
    dataset: Path
    objective: str
    early_stopping: bool

    def identity(self) -> dict[str, Any]:
        """Return what has to be the same for a search to go on, as JSON has it."""
        shards = sorted((self.dataset / "data").glob("[!.]*.parquet"))
        listed = [(path.name, path.stat().st_size) for path in shards]
        found = {
            "dataset": str(self.dataset.resolve()),
            "shards": hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16],
            "flags": dict(self.hyperparameters),
            "learning_rate_range": self.space.learning_rates,
            "batch_sizes": self.space.batch_sizes,
            "epochs_range": self.space.epochs,
            "objective": self.objective,
            "early_stopping": self.early_stopping,
        }
        return json.loads(json.dumps(found))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the space in Optuna's terms."""
        return {
            LEARNING_RATE: FloatDistribution(*self.space.learning_rates, log=True),
            BATCH_SIZE: CategoricalDistribution(self.space.batch_sizes),
            EPOCHS: IntDistribution(*self.space.epochs),
        }

    @property
    def direction(self) -> str:
        """Where the objective should go."""
        return "maximize" if is_better_when_larger(self.objective) else "minimize"


def run_search(search: LocalSearch, max_jobs: int, folder: Path) -> list[Trial]:
    """Run trials until there are max_jobs, those of an earlier command included.

    Raises: ValueError: no dataset, the folder holds another search or one that still runs, or this
        is Windows.
    """
    if os.name != "posix":
        raise ValueError("--local needs Linux or macOS: run it in WSL, or search on AWS.")
    if not (search.dataset / "README.md").exists():
        raise ValueError(
            f"--dataset {search.dataset}: there is no finished dataset here; with --local it is a "
            "folder of data_prep/build_dataset.py."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        study = _study(search, folder)
        while len(study.trials) < max_jobs:
            study.add_trial(_next_trial(search, study, folder, max_jobs))
            _remove_checkpoints(_trial_folder(folder, len(study.trials) - 1))
        return [_as_trial(frozen) for frozen in study.trials]


def train_command(search: LocalSearch, trial: Trial, output_dir: Path) -> str:
    """Return the command that trains with a trial's hyperparameters, and then tests."""
    flags = {**search.hyperparameters, **tuned_values(trial), "do_predict": True}
    folders = {"dataset_dir": str(search.dataset), "output_dir": str(output_dir)}
    train = os.path.relpath(SCRIPTS / "train.py")
    on_one_gpu = [f"{name}={value}" for name, value in ONE_GPU.items() if name not in os.environ]
    return shlex.join([*on_one_gpu, "python", train, *as_flags({**folders, **flags})])


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep the folder for this process; a lock goes with its process, however that ends."""
    import fcntl  # Windows has none

    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"--output_dir {folder}: a search is running there.") from error
        yield


def _study(search: LocalSearch, folder: Path) -> optuna.Study:
    """Return the study on disk. Raises: ValueError: it is another search's."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    identity = search.identity()
    # Whatever character the folder's name has: as it stands a "?" would end the path.
    path = folder.resolve() / STUDY
    storage = URL.create("sqlite", database=str(path)).render_as_string()
    try:
        study = optuna.create_study(
            storage=storage, study_name="search", direction=search.direction, load_if_exists=True
        )
    except SQLAlchemyError as error:
        cause = str(error).splitlines()[0]
        raise ValueError(
            f"{path} cannot be read ({cause}): choose another --output_dir, or remove that file to "
            "begin again."
        ) from error
    recorded = study.user_attrs.get("identity")
    if recorded is None:  # new, or killed before this line
        study.set_user_attr("identity", identity)
    elif recorded != identity:
        differing = [name for name in identity if recorded.get(name) != identity[name]]
        raise ValueError(
            f"--output_dir {folder} holds another search ({', '.join(differing)} differ): choose "
            "another folder."
        )
    return study


def _trial_folder(folder: Path, number: int) -> Path:
    return folder / f"trial-{number + 1}"


def _next_trial(
    search: LocalSearch, study: optuna.Study, folder: Path, max_jobs: int
) -> optuna.trial.FrozenTrial:
    """Train the next trial to its end, and return it."""
    number = len(study.trials)
    # In memory: what is on disk holds ended trials only, and a search that goes on draws the same.
    draft = optuna.create_study(
        direction=search.direction,
        sampler=optuna.samplers.TPESampler(n_startup_trials=NUM_RANDOM_TRIALS, seed=SEED + number),
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=NUM_TRIALS_BEFORE_PRUNING, n_warmup_steps=FIRST_JUDGED_EPOCH
        )
        if search.early_stopping
        else optuna.pruners.NopPruner(),
    )
    draft.add_trials(study.trials)
    trial = draft.ask(search.distributions())
    run_dir = _trial_folder(folder, number)
    chosen = ", ".join(f"{name}={value:.4g}" for name, value in trial.params.items())
    print(f"{run_dir.name} of {max_jobs}: {chosen}", file=sys.stderr, flush=True)
    state, value, reason = _train(search, trial, run_dir)
    end = reason if value is None else f"{search.objective}={value:.6g}"
    print(f"{run_dir.name}: {STATUS[state]}, {end}", file=sys.stderr, flush=True)
    reported = draft.trials[number].intermediate_values
    return optuna.trial.create_trial(
        state=state,
        params=trial.params,
        distributions=trial.distributions,
        value=value,
        intermediate_values=reported,
        user_attrs={"reason": reason},
    )


def _train(
    search: LocalSearch, trial: optuna.Trial, run_dir: Path
) -> tuple[TrialState, float | None, str]:
    """Train one trial and return how it ended, the objective, and why it failed.

    What the log says decides, epoch by epoch, whenever it is read: so the outcome does not depend
    on how fast this machine is, nor on when a search was killed.
    """
    run_dir.mkdir(exist_ok=True)
    log = run_dir / LOG
    folders = {"dataset_dir": str(search.dataset), "output_dir": str(run_dir)}
    flags = {**search.hyperparameters, **trial.params, **folders, "disable_tqdm": True}
    judged = 0
    with _running([sys.executable, str(SCRIPTS / "train.py"), *as_flags(flags)], log) as process:
        has_ended = False
        while not has_ended:
            has_ended = process.poll() is not None  # before the log is read to its end
            values = _values_by_epoch(search.objective, log)
            for epoch, value in list(values.items())[judged:]:
                trial.report(value, step=epoch)
                if epoch < trial.params[EPOCHS]:
                    print(f"  epoch {epoch}: {search.objective}={value:.6g}", file=sys.stderr)
                    if trial.should_prune():
                        return TrialState.PRUNED, value if math.isfinite(value) else None, ""
            judged = len(values)
            if not has_ended:
                time.sleep(SECONDS_BETWEEN_LOOKS)
    text = log.read_text(errors="replace")
    told = metric_values(search.objective, _evaluations(text))
    if process.returncode != 0 or not told:
        lines = [line for line in text.splitlines() if line.strip()] or ["it said nothing"]
        return TrialState.FAIL, None, f"exit code {process.returncode}: {lines[-1].strip()}"
    if not math.isfinite(told[-1]):
        return TrialState.FAIL, None, f"{search.objective} is no number: a lower learning rate?"
    return TrialState.COMPLETE, told[-1], ""


def _evaluations(log: str) -> str:
    """Return the lines that train.py prints after an evaluation, those that ended."""
    lines = log.splitlines(keepends=True)
    return "".join(
        line for line in lines if line.startswith("metrics split=val") and line.endswith("\n")
    )


def _values_by_epoch(objective: str, log: Path) -> dict[int, float]:
    """Return the objective after each epoch that a log tells of.

    The first of several lines counts: a trial that went on may repeat an epoch, and train.py
    evaluates its best epoch at the end once more.
    """
    values: dict[int, float] = {}
    for line in _evaluations(log.read_text(errors="replace")).splitlines():
        epoch = re.search(r" epoch=([0-9.]+)", line)
        if epoch and (told := metric_values(objective, line)):
            values.setdefault(round(float(epoch[1])), told[0])
    return values


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command with its output in a file; it never outlives the block, nor this process."""
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def end_with_parent() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has gone before
            os._exit(1)

    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**ONE_GPU, **os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C comes to this process, which ends the trial
            preexec_fn=end_with_parent,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that decode photos
            process.wait()


def _remove_checkpoints(run_dir: Path) -> None:
    """Remove what only a trial that goes on needs; its model stays."""
    for checkpoint in run_dir.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _as_trial(frozen: optuna.trial.FrozenTrial) -> Trial:
    return Trial(
        name=f"trial-{frozen.number + 1}",
        status=STATUS[frozen.state],
        objective=None if frozen.state == TrialState.FAIL else frozen.value,
        learning_rate=frozen.params[LEARNING_RATE],
        batch_size=frozen.params[BATCH_SIZE],
        epochs=frozen.params[EPOCHS],
        reason=frozen.user_attrs["reason"],
    )
