"""What a training job cost, from what DescribeTrainingJob says of it. Everything here is pure.

Source: AWS's reference of DescribeTrainingJob: BillableTimeInSeconds is wall-clock time, to be
multiplied by the number of instances; the savings of a spot job are
(1 - BillableTimeInSeconds / TrainingTimeInSeconds) * 100.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BilledTime:
    """The seconds of all instances of a job together, as the SageMaker SDK prints them.

    `warm_seconds` are those that instances were kept for a next job (--keep_alive) so far.
    """

    training_seconds: int
    billable_seconds: int
    warm_seconds: int
    is_spot: bool

    @property
    def savings(self) -> float | None:
        """Percent of the time that managed spot training did not bill; None without spot."""
        if not self.is_spot or self.training_seconds == 0:
            return None
        return (1 - self.billable_seconds / self.training_seconds) * 100

    def cost(self, price_per_hour: float) -> float:
        """Return the cost at a price of one instance, in its currency.

        The price is that on demand, for spot jobs too: AWS bills less of their time instead.
        """
        return (self.billable_seconds + self.warm_seconds) / 3600 * price_per_hour


def billed_time(description: Mapping[str, Any]) -> BilledTime | None:
    """Return the seconds of a job; None as long as AWS does not say, which it does at the end.

    Args:
        description: what DescribeTrainingJob returned.
    """
    if description.get("BillableTimeInSeconds") is None:
        return None
    count = instance_count(description)
    warm_pool = description.get("WarmPoolStatus", {})
    return BilledTime(
        training_seconds=description["TrainingTimeInSeconds"] * count,
        billable_seconds=description["BillableTimeInSeconds"] * count,
        warm_seconds=warm_pool.get("ResourceRetainedBillableTimeInSeconds", 0) * count,
        is_spot=description.get("EnableManagedSpotTraining", False),
    )


def instance_count(description: Mapping[str, Any]) -> int:
    """Return how many instances a job asked for."""
    return description["ResourceConfig"].get("InstanceCount", 1)
