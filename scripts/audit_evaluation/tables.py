"""How many wrong bins an audit finds, in tables that a page of documentation can take over."""

from collections.abc import Mapping, Sequence
from typing import Any

AT_BUDGET = 0.2  # where all who judge a kind stand beside one another


def evaluation_text(figures: Mapping[str, Any]) -> str:
    """Return the tables of each kind of wrong records, of evaluation.evaluate_audit.

    Behind them those of item_errors, where there are some.
    """
    kinds = [_kind(name, kind, figures) for name, kind in figures["kinds"].items()]
    return "\n".join([*kinds, *map(_item_error, figures.get("item_errors", ()))])


def _kind(name: str, kind: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    rate, told = kind["estimated_rate"], kind["calibration_error_if_told"]
    errors = ", ".join(f"{100 * error:.1f} % if told {float(r):.0%}" for r, error in told.items())
    found = _table(
        ("checked", "wrong bins found %", "of those checked, wrong %")
        + ("times random", "'count differs', times random"),
        [
            (
                f"{row['budget']:.0%}",
                _with_interval(row["found"], 100, 1),
                _with_interval(row["precision"], 100, 1),
                _with_interval(row["times_random"], 1, 2),
                _with_interval(row["rule_times_random"], 1, 2),
            )
            for row in kind["budgets"]
        ],
    )
    return f"""
{name.replace("_", " ").capitalize()}: {_number_of_cases(kind)} in {kind["num_groups"]:,} \
bin groups, {figures["wrong_share"]:.0%} of the records wrong
{found}
Area under the ROC curve: {_with_interval(kind["area_under_curve"], 1, 3)}, of the rule \
{_with_interval(kind["rule_area_under_curve"], 1, 3)}.
Wrong records, as the audit takes: {_with_interval(rate, 100, 1)} %, learned in \
{rate["is_learned"]:.0%} of the draws.
Calibration error of the probability to be wrong: \
{100 * kind["calibration"]["expected_calibration_error"]:.1f} %; {errors}.
{_rivals(kind, figures["wrong_share"])}{_savings(kind["savings"])}"""


def _number_of_cases(kind: Mapping[str, Any]) -> str:
    photos = f"{kind['num_photos']:,} photos"
    is_more = kind["num_cases"] > kind["num_photos"]
    return f"{kind['num_cases']:,} cases of {photos}" if is_more else photos


def _rivals(kind: Mapping[str, Any], wrong_share: float) -> str:
    """Return what others find who judge the same records; nothing where there are none."""
    if not kind["rivals"]:
        return ""
    errors = kind["calibration_error_if_told"]
    audit = {**kind, "calibration_error_if_told": errors[f"{wrong_share:g}"]}
    rows = []
    for name, judge in {"audit": audit, **kind["rivals"]}.items():
        (found,) = (row for row in judge["budgets"] if row["budget"] == AT_BUDGET)
        more = found.get("audit_times_random_more")
        rows.append(
            (
                name,
                _with_interval(found["found"], 100, 1),
                _with_interval(found["times_random"], 1, 2),
                "" if more is None else _with_interval(more, 1, 2),
                _with_interval(judge["area_under_curve"], 1, 3),
                f"{100 * judge['calibration_error_if_told']:.1f}",
            )
        )
    header = (
        *("judged by", f"wrong bins found at {AT_BUDGET:.0%} %", "times random"),
        *("the audit's more", "area", f"calibration error if told {wrong_share:.0%} %"),
    )
    return f"The same records, judged by those who know less:\n{_table(header, rows)}\n"


def _item_error(error: Mapping[str, Any]) -> str:
    """Return how well a kind of error is found, by the size of what it is about."""
    budget = f"{error['budget']:.0%}"
    whole = (
        "all",
        f"{error['num_records']:,}",
        *(_with_interval(of["found"], 100, 1) for of in error["judges"].values()),
    )
    sizes = [
        (
            f"{size['low']:,.0f} to {size['high']:,.0f}",
            f"{size['num_records']:,}",
            *(_with_interval(of["found"], 100, 1) for of in size["judges"].values()),
        )
        for size in error["sizes"]
    ]
    area = ("area under the ROC curve", "") + tuple(
        _with_interval(of["area_under_curve"], 1, 3) for of in error["judges"].values()
    )
    return f"""
Items that are {error["name"]}: {error["num_records"]:,} wrong records of {error["num_photos"]:,} \
photos in {error["num_groups"]:,} bin groups. Found at {budget} of the checks, %, by their volume in
cubic inches:
{_table(("volume", "wrong records", *error["judges"]), [*sizes, whole, area])}"""


def _savings(savings: Sequence[Mapping[str, Any]]) -> str:
    """Return what each way of deciding saves, a column for each price of an error."""
    prices = [f"{of['cost_missed_error']:g} to {of['cost_manual_check']:g}" for of in savings]
    rows = [
        (
            ways[0]["name"],
            *(
                f"{_with_interval(way['saved'], 1, 0)} ({way['checked']['value']:.0%})"
                for way in ways
            ),
        )
        for ways in zip(*(of["ways"] for of in savings), strict=True)
    ]
    more = "; ".join(
        f"at {price} {_with_interval(of['more_than_best_rival'], 1, 0)} ({of['best_rival']})"
        for price, of in zip(prices, savings, strict=True)
    )
    return (
        "Saved per 1,000 bins, and the share that is checked, for an error and a check at\n"
        f"{_table(('decided by', *prices), rows)}\n"
        f"The audit saves more than the best rival: {more}."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["--:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _with_interval(figure: Mapping[str, float], factor: float, digits: int) -> str:
    value, low, high = (f"{factor * figure[k]:,.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
