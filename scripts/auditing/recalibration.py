"""What people found in bins makes an audit's probabilities honest again, without training.

Three numbers are fitted: how sharp what photos say is taken to be, how far off wrong records are,
and how many are wrong. They are those under which what was found is likeliest, given what the audit
knew of each bin before: P(c | photo, record) of decisions.py. Which bins people look at is no
matter to that, as long as the audit chose them, since it chose by photos and records alone, and the
likelihood is given these (Rubin, Inference and missing data, Biometrika 1976). That is why the
share of wrong records among the marks, which is far too high, is nowhere in it. Where people choose
by what an audit does not see, such as a shelf that they know to be untidy, it is not so.

Few marks change little: each of the three is believed to be near what it is by default. Marks of
several visits of one bin are taken for independent, which makes the interval a little too narrow.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from auditing.wrong_rate import DEFAULT_WRONG_RATE, TELLING, WrongRate
from likeliest_weights import derivatives, likeliest
from one_line_parser import reason_of
from output_files import whole_file
from visits.error_model import ERROR_MODEL, rows_to_one
from visits.settings import HEAD_SETTINGS

RECALIBRATION = "recalibration.json"
# Standard deviations of the logarithms: in two of three cases each is believed to lie between a
# factor of 0.6 and one of 1.6, the rate between a third and three times DEFAULT_WRONG_RATE.
BELIEVED = np.array([0.5, 0.5, 1.1])
NORMAL_95 = 1.96
AS_RIGHT = 0.02  # of the sharpness: less is not worth a word
USUAL_ODDS = DEFAULT_WRONG_RATE / (1 - DEFAULT_WRONG_RATE)


@dataclass(frozen=True)
class Recalibration:
    """What the marks of an audit say of the model folder that judged it.

    Args:
        sharpness: the power of what photos and items say; below 1 the audit was too sure.
        breadth: by how much likelier a wrong record is for each further item that it is off.
        wrong_rate: with 95 % of what is likely; None: nobody has recalibrated.
        num_marks: bins that this was learned from, and how many of their records were wrong.
    """

    sharpness: float = 1.0
    breadth: float = 1.0
    wrong_rate: WrongRate | None = None
    num_marks: int = 0
    num_wrong: int = 0

    @property
    def words(self) -> str:
        """What marks have said, a line each; only where there were some."""
        rate = self.wrong_rate
        assert rate is not None
        sure = "too sure" if self.sharpness < 1 else "not sure enough"
        if abs(self.sharpness - 1) < AS_RIGHT:
            sure = "as sure as it is right"
        return (
            f"{self.num_marks:,} marks, {self.num_wrong:,} of wrong records.\n"
            f"Wrong records before a photo is seen: {rate.value:.1%} ({rate.low:.1%} to "
            f"{rate.high:.1%}).\n"
            f"The model is {sure}: what photos say is taken to the power of {self.sharpness:.2f}.\n"
            f"For each further item that it is off a wrong record is {self.breadth:.2f} times as "
            "likely as thought."
        )

    def sharpened(self, probabilities: np.ndarray) -> np.ndarray:
        """Return distributions over counts, (num_bins, num_counts), as sharp as they should be."""
        return probabilities if self.sharpness == 1 else rows_to_one(probabilities**self.sharpness)

    def record_probabilities(self, usual: np.ndarray) -> np.ndarray:
        """Return how wrong records come about.

        Args:
            usual: (num_counts, num_counts), of ErrorModel.record_probabilities.
        """
        if self.breadth == 1:
            return usual
        columns = np.arange(len(usual))
        distance = np.abs(np.subtract.outer(columns, columns))
        return rows_to_one(usual * self.breadth ** np.maximum(distance - 1, 0))


def fit_recalibration(
    posteriors: Callable[[Recalibration], np.ndarray],
    possible: np.ndarray,
    num_wrong: int,
    start: Recalibration,
) -> Recalibration:
    """Return the recalibration under which what was found is likeliest.

    Args:
        posteriors: what an audit says of the bins that were looked at, with a recalibration: float
            (num_marks, num_counts), by photos and records alone.
        possible: bool (num_marks, num_counts), the counts that each bin may hold, as was found: one
            where it was counted, all but one where its record was found wrong and nobody counted.
        num_wrong: how many of the records were found wrong.
        start: where to begin, with a rate.
    """

    def candidate(point: np.ndarray, rate: WrongRate | None = None) -> Recalibration:
        sharpness, breadth, times_usual = point.tolist()
        odds = times_usual * USUAL_ODDS
        rate = rate or WrongRate(odds / (1 + odds))
        return Recalibration(sharpness, breadth, rate, len(possible), num_wrong)

    def log_probability(point: np.ndarray) -> float:
        point = np.maximum(point, 1e-6)
        found = (posteriors(candidate(point)) * possible).sum(axis=1)
        belief = -((np.log(point) / BELIEVED) ** 2).sum() / 2
        return float(np.log(np.maximum(found, 1e-300)).sum() + belief)

    assert start.wrong_rate is not None
    rate = start.wrong_rate.value
    begin = [start.sharpness, start.breadth, rate / (1 - rate) / USUAL_ODDS]
    point = np.maximum(likeliest(log_probability, np.array(begin)), 1e-6)
    # In logarithms, in which what is believed is a normal distribution.
    logarithms = np.log(point)
    curvature = derivatives(lambda logs: log_probability(np.exp(logs)), logarithms)[1]
    spread = np.sqrt(max(-np.linalg.inv(curvature)[2, 2], 0.0)) or BELIEVED[2]
    odds = USUAL_ODDS * np.exp(logarithms[2] + np.array([-1, 0, 1]) * NORMAL_95 * spread)
    low, value, high = (odds / (1 + odds)).tolist()
    is_learned = high - low < max(TELLING, value)
    return candidate(point, WrongRate(value, low, high, is_learned))


def judging_model(model_dir: Path, identity: Mapping[str, object]) -> str:
    """Return a digest of all that a model folder says of a bin, and a recalibration depends on.

    Args:
        identity: of an audit with it: what its parts depend on.
    """
    digest = hashlib.sha256()
    for name in ("model", "runtime", "items"):
        digest.update(f"{identity[name]} ".encode())
    for path in (model_dir / ERROR_MODEL, model_dir / HEAD_SETTINGS):
        digest.update(path.read_bytes() if path.exists() else b" ")
    return digest.hexdigest()


def write_recalibration(model_dir: Path, recalibration: Recalibration, model: str) -> None:
    """Write recalibration.json into a model folder.

    Args:
        model: of judging_model.
    """
    content = {"model": model, **asdict(recalibration)}
    with whole_file(model_dir / RECALIBRATION) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_recalibration(model_dir: Path, model: str) -> Recalibration | None:
    """Return what write_recalibration wrote, None where there is none.

    Raises: ValueError: the file is damaged, or of another model.
    """
    path = model_dir / RECALIBRATION
    if not path.exists():
        return None
    again = f"remove it, or write it anew with python scripts/audit.py --recalibrate: {path}"
    try:
        content = json.loads(path.read_text())
        of_model = content.pop("model")
        rate = WrongRate(**content.pop("wrong_rate"))
        recalibration = Recalibration(wrong_rate=rate, **content)
        numbers = [recalibration.sharpness, recalibration.breadth, rate.value]
        if not all(np.isfinite(number) and number > 0 for number in numbers) or rate.value >= 1:
            raise ValueError("its numbers are none")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{RECALIBRATION} is damaged ({reason_of(error)}): {again}.") from error
    if of_model != model:
        raise ValueError(f"{RECALIBRATION} is of another model than lies beside it: {again}.")
    return recalibration
