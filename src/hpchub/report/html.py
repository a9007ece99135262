"""The usage report as one HTML page, with plots and without any other file. No I/O.

Every plot is a picture with a title and a description for screen readers, and its values follow in a table.
"""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from hpchub.report.figures import PERCENTILES, REGULAR, Figures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hpchub.report.figures import Report

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 900, 240, 60, 40, 10

STYLE = """\
:root { color-scheme: light dark; --bar: #2b6cb0; --line: #767676; }
@media (prefers-color-scheme: dark) { :root { --bar: #7fb2e5; --line: #9a9a9a; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding: .25rem 0; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child { text-align: left; font-weight: normal; }
thead th { font-weight: bold; vertical-align: bottom; }
.wide { overflow-x: auto; }
svg { width: 100%; height: auto; }
svg rect { fill: var(--bar); }
svg line { stroke: var(--line); }
svg text { font-size: 12px; fill: currentColor; }
"""

_HEADS = {"month": "Month", "profile": "Profile", "group": "Group", "cluster": "Cluster"}
_COLUMNS = (
    *("Starts", "Sessions", "Failed", "Users", f"Users with {REGULAR} or more sessions", "Mean wait"),
    *("Median wait", "95% wait", "Most at once", "Core-hours", "GPU-hours"),
)


def page(report: Report, service: str) -> str:
    """Return the page.

    Args:
        report: The report. Its breakdowns become tables and plots.
        service: The name of the service.
    """
    period = report.period
    title = f"Usage of {service or 'the Jupyter service'} from {period.first_day} to {period.last_day}"
    made = datetime.fromtimestamp(report.now, period.zone)
    notes = [f"Made on {made:%Y-%m-%d %H:%M %Z}."]
    if report.begins is not None and report.begins > period.start:
        notes.append(f"The record begins on {datetime.fromtimestamp(report.begins, period.zone):%Y-%m-%d}.")
    if period.end > report.now:
        notes.append("The period is not over yet.")
    if report.left_out:
        notes.append(f"Starts of the canary do not count here ({report.left_out}).")
    parts = [
        f"<h1>{escape(title)}</h1>\n<p>{escape(' '.join(notes))}</p>",
        _totals(report),
        _chart("Sessions per day", "Sessions that were requested on each day", "Day", report.days),
        _chart("Active users per week", "Users who could use a session in each week", "Week", report.weeks),
        _waits(report.total),
    ]
    if report.total.failures:
        parts.append(_chart("Failed starts", "Failed starts by the reason", "Reason", report.total.failures))
    if report.refused:
        parts.append(_counts("Refused before a start", "Reason", report.refused))
    if report.total.endings:
        parts.append(_counts("How sessions ended", "Cause", report.total.endings))
    parts += [_breakdown(name, found) for name, found in report.parts.items()]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _totals(report: Report) -> str:
    total = report.total
    rows = {
        "Starts": total.starts,
        "Sessions: starts that became ready": total.sessions,
        "Failed starts": total.failed,
        "Starts that were stopped while they waited": total.cancelled,
        "Starts that still wait": total.pending,
        "Users": total.users,
        f"Users with {REGULAR} or more sessions": total.regular_users,
        "Mean wait from the request to the notebook": _seconds(total.wait["mean"]),
        "Sessions per day": f"{total.sessions_per_day:.2f}",
        "Active users per week": f"{total.active_users_per_week:.2f}",
        "Most sessions at once": total.peak,
        "Core-hours": f"{total.core_hours:.1f}",
        "GPU-hours": f"{total.gpu_hours:.1f}",
        "Jobs with times from the scheduler's accounting": report.accounted,
    }
    return "<h2>Summary</h2>\n" + _table("All sessions", ("Figure", "Value"), rows.items())


def _waits(total: Figures) -> str:
    names = {"mean": "Mean", **{f"p{percent}": f"{percent}% wait at most" for percent in PERCENTILES}, "max": "Longest"}
    rows = [(names[name], _seconds(value)) for name, value in total.wait.items()]
    heading = "Wait from the request to the notebook"
    return f"<h2>{heading}</h2>\n" + _table(heading, ("Figure", "Value"), rows)


def _breakdown(name: str, parts: Mapping[str, Figures]) -> str:
    head = _HEADS[name]
    heading = f"By {head.lower()}"
    note = ""
    if name == "group":
        note = (
            "<p>A session counts for each group that its user had at its start, so the sums can be larger than the"
            " total.</p>\n"
        )
    rows = [
        (
            *(key, part.starts, part.sessions, part.failed, part.users, part.regular_users),
            *(_seconds(part.wait["mean"]), _seconds(part.wait["p50"]), _seconds(part.wait["p95"])),
            *(part.peak, f"{part.core_hours:.1f}", f"{part.gpu_hours:.1f}"),
        )
        for key, part in parts.items()
    ]
    table = _table(f"Figures {heading.lower()}", (head, *_COLUMNS), rows)
    hours = {key: part.core_hours for key, part in parts.items()}
    plot = _plot(f"Core-hours {heading.lower()}", f"Core-hours of each {head.lower()}", hours)
    return f"<h2>{heading}</h2>\n{note}{plot}\n{table}"


def _chart(heading: str, description: str, head: str, values: Mapping[str, float]) -> str:
    """Return a plot, followed by its values in a table that is closed at first."""
    table = _table(heading, (head, "Number"), values.items())
    plot = _plot(heading, description, values)
    return f"<h2>{heading}</h2>\n{plot}\n<details>\n<summary>{heading} as a table</summary>\n{table}\n</details>"


def _counts(heading: str, head: str, values: Mapping[str, int]) -> str:
    return f"<h2>{heading}</h2>\n" + _table(heading, (head, "Number"), values.items())


def _plot(title: str, description: str, values: Mapping[str, float]) -> str:
    """Return a bar chart as a picture."""
    if not values:
        return "<p>There are no values.</p>"
    most = max(values.values())
    top = max(values, key=lambda name: values[name])
    summary = f"{description}: {len(values)} values, at most {most:,.1f} ({top})".replace(".0 ", " ")
    step = (WIDTH - LEFT) / len(values)
    every = max(1, -(-len(values) // 9))
    low = HEIGHT - BOTTOM
    marks = []
    for share in (0, 0.5, 1):
        y = low - share * (low - TOP)
        label = f"{most * share:,.1f}".removesuffix(".0")
        marks.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for number, (name, value) in enumerate(values.items()):
        height = (low - TOP) * value / most if most else 0
        x = LEFT + number * step
        width = max(step * 0.8, 0.5)
        marks.append(f'<rect x="{x:.2f}" y="{low - height:.2f}" width="{width:.2f}" height="{height:.2f}"/>')
        if number % every == 0:
            shown = escape(name if len(name) <= 16 else f"{name[:15]}…")
            marks.append(f'<text x="{x:.2f}" y="{low + 16}">{shown}</text>')
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{escape(title)}. {escape(summary)}">'
        f"<title>{escape(title)}</title><desc>{escape(summary)}</desc>{''.join(marks)}</svg>"
    )


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table. The first cell of each row is its heading."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "\n".join(
        f'<tr><th scope="row">{escape(str(row[0]))}</th>'
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table>\n<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        f"{body}\n</tbody>\n</table></div>"
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} s"
