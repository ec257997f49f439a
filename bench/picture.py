"""Pictures of what was measured, by the package's own drawing."""

import math

from backprop.drawing import INK, Path, Picture, Rect, Text

COLORS = {
    "torch": "#cc5430", "torch-compiled": "#e89466", "torch-bf16": "#f2c29e", "jax": "#2973b3", "jax-scan": "#85b5de",
    "sklearn": "#739940", "numpy": "#8c73ad", "ours-bf16": "#7f7f7f",
}
FAINT, BAR = ("#d8dce0", "#3a4047"), 11


def ratios(results, threads, versions):
    """Bars of how many times faster ours is, on a logarithmic axis, by workload and peer."""
    shown = [p for p in COLORS if any(p in r["ratio"] for r in results)]
    high = max([max(r["ratio"].values(), default=1) for r in results] + [10])
    low = min([min(r["ratio"].values(), default=1) for r in results] + [0.8])
    left, width, top = 330, 520, 84
    span = math.log(high * 1.25 / low)

    def at(v):
        return left + width * math.log(v / low) / span

    items, y = [], top
    for r in results:
        start = y
        for peer in shown:
            if peer not in r["ratio"]:
                continue
            v = r["ratio"][peer]
            a, b = sorted((at(1), at(v)))
            items.append(Rect(a, y, max(b - a, 1), BAR - 2, 0, (COLORS[peer], COLORS[peer]), None))
            items.append(Text(b + 5, y + 8, f"{v:.2f}" if v < 10 else f"{v:.0f}", size=9, anchor="start"))
            y += BAR
        items.append(Text(left - 10, (start + y) / 2 + 3, r["workload"], size=11, anchor="end"))
        y += 9
    grid = []
    for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200):
        if low <= tick <= high * 1.25:
            grid += [Path([(at(tick), top - 6), (at(tick), y)], INK if tick == 1 else FAINT, width=1.2 if tick == 1 else 0.8),
                     Text(at(tick), top - 12, f"{tick:g}x", size=10)]
    legend, x = [], 24
    for peer in shown:
        legend += [Rect(x, 42, 10, 10, 0, (COLORS[peer], COLORS[peer]), None), Text(x + 15, 51, peer, size=11, anchor="start")]
        x += 34 + 7 * len(peer)
    title = f"How many times faster backprop is, {threads} thread{'s' * (threads != 1)}"
    head = [Text(24, 26, title, size=15, anchor="start", bold=True)]
    lines = [f"{r['workload']}: " + ", ".join(f"{p} {v:.2f}" for p, v in r["ratio"].items()) for r in results]
    return Picture([*grid, *head, *legend, *items], left + width + 60, y + 16, title,
                   "; ".join(lines) + ". " + ", ".join(f"{k} {v}" for k, v in versions.items()))


def heat(cells, widths, batches, title, text="{:.2f}", low=0.9, high=2.0):
    """A cell for each (width, batch): red below 0.97, with a frame, green above 1.03."""
    size, tall, left, top = 46, 26, 70, 70
    items = [Text(24, 26, title, size=15, anchor="start", bold=True), Text(left + size * len(batches) / 2, 46, "batch", size=11),
             Text(26, top + tall * len(widths) / 2, "width", size=11)]
    for j, b in enumerate(batches):
        items.append(Text(left + size * (j + 0.5), top - 6, str(b), size=10))
    for i, w in enumerate(widths):
        items.append(Text(left - 8, top + tall * (i + 0.65), str(w), size=10, anchor="end"))
        for j, b in enumerate(batches):
            v = cells[w, b]
            t = 0 if 0.97 <= v <= 1.03 else max(-1.0, min(1.0, (v - 1) / (high - 1) if v >= 1 else (v - 1) / (1 - low)))
            r, g, bl = (1 - 0.65 * t, 1 - 0.25 * t, 1 - 0.6 * t) if t >= 0 else (1, 1 + 0.5 * t, 1 + 0.6 * t)
            fill = "#" + "".join(f"{round(255 * c):02x}" for c in (r, g, bl))
            items += [Rect(left + size * j, top + tall * i, size - 2, tall - 2, 2, (fill, fill), ("#b00000", "#b00000") if v < 0.97 else None),
                      Text(left + size * (j + 0.5) - 1, top + tall * i + 16, text.format(v), ("#1f2328", "#1f2328"), 10)]
    return Picture(items, left + size * len(batches) + 24, top + tall * len(widths) + 20, title)
