"""How many wrong bins an audit finds, in tables that a page of documentation can take over."""

from collections.abc import Mapping, Sequence
from typing import Any


def evaluation_text(figures: Mapping[str, Any]) -> str:
    """Return the tables of each kind of wrong records, of evaluation.evaluate_audit."""
    return "\n".join(_kind(name, kind, figures) for name, kind in figures["kinds"].items())


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
{name.replace("_", " ").capitalize()}: {kind["num_photos"]:,} photos in {kind["num_groups"]:,} \
bin groups, {figures["wrong_share"]:.0%} of the records wrong
{found}
Area under the ROC curve: {_with_interval(kind["area_under_curve"], 1, 3)}, of the rule \
{_with_interval(kind["rule_area_under_curve"], 1, 3)}.
Wrong records, as the audit takes: {_with_interval(rate, 100, 1)} %, learned in \
{rate["is_learned"]:.0%} of the draws.
Calibration error of the probability to be wrong: \
{100 * kind["calibration"]["expected_calibration_error"]:.1f} %; {errors}.
{_savings(kind["savings"])}"""


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
