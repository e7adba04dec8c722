import pytest

from job_report import BilledTime, billed_time


def test_savings_are_those_that_the_seeds_printed() -> None:
    assert f"{BilledTime(1921, 714, 0, True).savings:.1f}" == "62.8"


def test_a_job_on_demand_saves_nothing_to_speak_of() -> None:
    assert BilledTime(1881, 1881, 0, False).savings is None


def test_a_spot_job_that_never_trained_has_no_savings() -> None:
    assert BilledTime(0, 0, 0, True).savings is None


def test_all_instances_are_billed() -> None:
    description = {
        "TrainingTimeInSeconds": 2997,
        "BillableTimeInSeconds": 2997,
        "ResourceConfig": {"InstanceCount": 2},
    }
    billed = billed_time(description)
    assert billed == BilledTime(5994, 5994, 0, False)
    assert billed.cost(price_per_hour=2.0) == pytest.approx(5994 / 3600 * 2.0)


def test_instances_that_are_kept_warm_are_billed_too() -> None:
    description = {
        "TrainingTimeInSeconds": 3600,
        "BillableTimeInSeconds": 3600,
        "ResourceConfig": {"InstanceCount": 2},
        "WarmPoolStatus": {"Status": "Terminated", "ResourceRetainedBillableTimeInSeconds": 900},
    }
    billed = billed_time(description)
    assert billed is not None
    assert billed.cost(price_per_hour=1.0) == pytest.approx(2.5)


def test_a_job_that_runs_has_no_bill_yet() -> None:
    assert billed_time({"ResourceConfig": {"InstanceCount": 1}}) is None
