"""Bar charts on a logarithmic scale as SVG, without a plotting library."""

from __future__ import annotations

import math
from typing import Any

PANELS = {
    "idle_commands_per_minute": "Scheduler commands per minute, idle",
    "pending_commands_per_minute": "Scheduler commands per minute, all pending",
    "burst_hub_p99_ms": "Hub's response time during a burst of starts, p99, ms",
    "hub_memory_per_session_mb": "Hub's memory per session, MB",
}
COLOURS = {"stock": "#b5541c", "hpchub": "#1c6fb5"}
WIDTH, HEIGHT, LEFT, BOTTOM = 420, 220, 56, 36


def svg(result: list[dict[str, Any]]) -> str:
    """Draw one panel for each figure, with a bar for each stack and number of sessions."""
    parts = []
    for place, (name, title) in enumerate(PANELS.items()):
        x, y = place % 2 * WIDTH, place // 2 * HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{panel(result, name, title)}</g>')
    size = f'width="{2 * WIDTH}" height="{2 * HEIGHT}" viewBox="0 0 {2 * WIDTH} {2 * HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{background}{"".join(parts)}</svg>\n'


def panel(result: list[dict[str, Any]], name: str, title: str) -> str:
    """Draw the bars of one figure."""
    values = [max(float(each[name] or 0), 1e-3) for each in result]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 0.01)
    tall = HEIGHT - BOTTOM - 34

    def up(value: float) -> float:
        return (math.log10(value) - low) / (high - low) * tall

    parts = [f'<text x="{LEFT}" y="18" font-weight="bold">{title}</text>']
    for power in range(low, high + 1):
        y = HEIGHT - BOTTOM - up(10**power)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 10}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10**power:g}</text>')
    step = (WIDTH - LEFT - 10) / len(result)
    for place, (each, value) in enumerate(zip(result, values, strict=True)):
        x, height = LEFT + place * step + 4, max(up(value), 1.0)
        y = HEIGHT - BOTTOM - height
        colour = COLOURS[each["stack"]]
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{step - 8:.1f}" height="{height:.1f}" fill="{colour}"/>')
        middle = x + (step - 8) / 2
        words = "none" if each[name] is None else f"{float(each[name]):.3g}"
        parts.append(f'<text x="{middle:.1f}" y="{y - 3:.1f}" text-anchor="middle">{words}</text>')
        for line, word in enumerate((each["stack"], str(each["sessions"]))):
            y = HEIGHT - BOTTOM + 14 + 13 * line
            parts.append(f'<text x="{middle:.1f}" y="{y}" text-anchor="middle">{word}</text>')
    return "".join(parts)
