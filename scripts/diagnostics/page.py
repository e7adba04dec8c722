"""The page of a run's diagnostics: one HTML file without scripts, on a desk and on a phone."""

import html
from collections.abc import Sequence

import numpy as np

from diagnostics.plots import Curve, layer_map, line_plot
from diagnostics.record import RunFigures
from diagnostics.rules import Finding

STYLE = """
:root { color-scheme: light dark; --page: light-dark(#f3f5f8, #12161c);
  --card: light-dark(#fff, #1b212a); --text: light-dark(#17202b, #e8edf3);
  --soft: light-dark(#4b5868, #aab6c4); --line: light-dark(#d3dae2, #3a4553);
  --bad: light-dark(#a61b1b, #ff9d9d); --good: light-dark(#17663a, #7ee2a8);
  --c0: light-dark(#1d4ed8, #8fb6ff); --c1: light-dark(#b45309, #fbbf24);
  --c2: light-dark(#17663a, #7ee2a8); --c3: light-dark(#86198f, #f0abfc); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 0.2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 1.6rem 0 0.6rem; }
h3 { font-size: 0.95rem; margin: 0 0 0.4rem; }
p { margin: 0 0 0.5rem; } .note, figcaption { color: var(--soft); font-size: 0.88rem; }
ul.rules { list-style: none; margin: 0; padding: 0; display: grid; gap: 0.6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); align-items: start; }
.rules li { background: var(--card); border: 1px solid var(--line); border-radius: 0.5rem;
  border-left: 0.4rem solid var(--line); padding: 0.6rem 0.8rem; overflow-wrap: anywhere; }
.rules .fires { border-left-color: var(--bad); grid-column: 1 / -1; }
.rules .quiet { border-left-color: var(--good); }
.rules b { float: right; font-size: 0.8rem; color: var(--soft); }
.rules .fires b { color: var(--bad); } .rules .quiet b { color: var(--good); }
.rules p { margin: 0.2rem 0 0; font-size: 0.9rem; }
.plots { display: grid; gap: 0.8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; min-width: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 0.5rem; padding: 0.7rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--soft); } .grid { stroke: var(--line); }
.curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.curve.c0 { stroke: var(--c0); } .curve.c1 { stroke: var(--c1); } .curve.c2 { stroke: var(--c2); }
.curve.c3 { stroke: var(--c3); } .dot.c0 { fill: var(--c0); } .dot.c1 { fill: var(--c1); }
.dot.c2 { fill: var(--c2); } .dot.c3 { fill: var(--c3); }
.key { margin-right: 0.6rem; white-space: nowrap; } .key.c0 { color: var(--c0); }
.key.c1 { color: var(--c1); } .key.c2 { color: var(--c2); } .key.c3 { color: var(--c3); }
.rows { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); gap: 0.5rem;
  max-height: 26rem; overflow-y: auto; }
.rows ol { list-style: none; margin: 0; padding: 0; }
.rows li { height: 1rem; line-height: 1rem; font-size: 0.72rem; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
.rows img { width: 100%; image-rendering: pixelated; display: block; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: 0.88rem; } th, td { padding: 0.25rem 0.9rem 0.25rem 0; text-align: right;
  border-bottom: 1px solid var(--line); } th:first-child, td:first-child { text-align: left;
  overflow-wrap: anywhere; }
"""
# The page shows what it holds, and asks nobody for anything.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STATES = {"fires": "fires", "quiet": "does not fire", "unknown": "too little to tell"}


def diagnostics_page(name: str, figures: RunFigures, findings: Sequence[Finding]) -> str:
    """Return the page as HTML.

    Args:
        name: the run's.
        findings: in the order in which they are shown.
    """
    escaped = html.escape(name)
    fired = sum(finding.state == "fires" for finding in findings)
    rules = "\n".join(_rule(finding) for finding in findings)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{escaped}: diagnostics</title>
<style>{STYLE}</style>
<h1>{escaped}</h1>
<p>{_summary(figures)}</p>
<h2>{fired} of {len(findings)} rules {"fires" if fired == 1 else "fire"}</h2>
<ul class="rules">
{rules}
</ul>
<h2>Training</h2>
<div class="plots">{_training_plots(figures)}</div>
<h2>Time and machine</h2>
<div class="plots">{_machine_plots(figures)}</div>
<h2>Layers</h2>
<p class="note">Gradients before clipping; the lowest layer first. Long maps scroll; a layer's
whole name shows when pointed at.</p>
<div class="plots">{_layer_maps(figures)}</div>
{_trace(figures)}
</html>
"""


def _rule(finding: Finding) -> str:
    advice = f"<p>{html.escape(finding.advice)}</p>" if finding.state == "fires" else ""
    return (
        f'<li class="{finding.state}"><b>{STATES[finding.state]}</b>'
        f"<strong>{html.escape(finding.title)}</strong>"
        f"<p>{html.escape(finding.evidence)}</p>{advice}</li>"
    )


def _summary(figures: RunFigures) -> str:
    run = figures.run
    done = int(figures.steps[-1]) if len(figures.steps) else 0
    seconds = float(figures.step_seconds.sum() + figures.data_seconds.sum())
    rate = len(figures.steps) * run["global_batch_size"] / seconds if seconds else 0.0
    said = (
        f"{run['model_type']}, {run['num_parameters']:,} parameters, on {run['device']} in "
        f"{run['precision']}. Step {done:,} of {run['num_steps']:,}, {run['global_batch_size']} "
        f"photos each; {rate:.1f} photos a second"
    )
    if len(figures.steps) > 1:
        said += (
            f", {figures.data_share:.1%} of the time waiting for them. The diagnostics themselves "
            f"took {figures.own_share:.1%} of the time"
        )
    return html.escape(f"{said}.")


def _training_plots(figures: RunFigures) -> str:
    evaluations = figures.evaluations
    at = [line["step"] for line in evaluations]
    layers, intervals = figures.layers, figures.intervals
    measured = [line["step"] for line in layers]
    rates = [line["learning_rate"] for line in intervals]
    return "\n".join(
        (
            line_plot(
                "Loss",
                "",
                [
                    Curve("training", figures.steps.tolist(), figures.losses.tolist()),
                    Curve("validation", at, _column(evaluations, "loss"), is_dotted=True),
                ],
            ),
            line_plot(
                "Accuracy",
                "share of the validation photos",
                [
                    Curve(label, at, _column(evaluations, name), is_dotted=True)
                    for name, label in (
                        ("accuracy", "right"),
                        ("within_one_accuracy", "at most one off"),
                    )
                ],
            ),
            line_plot(
                "Gradient norm",
                "before clipping",
                [Curve("norm", measured, _column(layers, "gradient_norm"))],
                is_logarithmic=True,
            ),
            line_plot("Learning rate", "", [Curve("rate", [i["step"] for i in intervals], rates)]),
        )
    )


def _machine_plots(figures: RunFigures) -> str:
    intervals = figures.intervals
    at = [line["step"] for line in intervals]
    steps = figures.steps.tolist()

    def curves(**names: str) -> list[Curve]:
        return [Curve(label, at, _column(intervals, name)) for name, label in names.items()]

    return "\n".join(
        (
            line_plot(
                "Time",
                "seconds",
                [
                    Curve("step", steps, figures.step_seconds.tolist()),
                    Curve("waiting for photos", steps, figures.data_seconds.tolist()),
                ],
            ),
            line_plot("Photos a second", "", curves(photos_a_second="photos")),
            line_plot(
                "Used",
                "percent",
                curves(
                    cpu_percent="processor",
                    memory_percent="memory",
                    gpu_percent="GPU",
                    gpu_memory_percent="GPU memory",
                ),
            ),
            line_plot(
                "Memory", "MiB", curves(process_mib="process and workers", gpu_peak_mib="GPU peak")
            ),
            line_plot("Disk", "MiB a second", curves(disk_mib_s="read and written")),
            line_plot("Room on the disk", "MiB", curves(disk_free_mib="free")),
        )
    )


def _layer_maps(figures: RunFigures) -> str:
    run, steps = figures.run, [line["step"] for line in figures.layers]
    if not steps:
        return ""
    gradients, weights = figures.of_layers("gradient_rms"), figures.of_layers("weight_std")
    return "\n".join(
        (
            layer_map("Gradient, root mean square", run["layers"], steps, gradients),
            layer_map("Gradient, largest", run["layers"], steps, figures.of_layers("gradient_max")),
            layer_map("Weights, standard deviation", run["layers"], steps, weights),
            layer_map(
                "Weights, size of the mean",
                run["layers"],
                steps,
                np.abs(figures.of_layers("weight_mean")),
            ),
            layer_map(
                "Share of silent units", run["activations"], steps, figures.of_layers("silent")
            ),
        )
    )


def _trace(figures: RunFigures) -> str:
    trace = figures.trace
    if trace is None:
        return ""
    times = {"host_ms": "host, ms", "device_ms": "GPU, ms"}
    shown = [name for name in times if any(row[name] for row in trace["operators"])]
    head = "".join(f"<th>{times[name]}</th>" for name in shown)
    rows = "".join(
        f"<tr><td>{html.escape(row['name'])}</td><td>{row['calls']:,}</td>"
        + "".join(f"<td>{row[name]:,.1f}</td>" for name in shown)
        + "</tr>"
        for row in trace["operators"]
    )
    return f"""<h2>Traced steps {trace["first_step"]} to {trace["step"]}</h2>
<p class="note">What the profiler saw most of, each without what it called; trace.json.gz beside
this page has all of it, for ui.perfetto.dev. Traced steps are slower, and count in no rule.</p>
<div class="table"><table><tr><th>operator</th><th>calls</th>{head}</tr>
{rows}</table></div>"""


def _column(lines: Sequence[dict], name: str) -> list[float]:
    """Return a figure of each line; nan where a line has none."""
    return [np.nan if line.get(name) is None else line[name] for line in lines]
