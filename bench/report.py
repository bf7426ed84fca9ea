"""What a benchmark writes: its numbers (JSON), a table (Markdown) and a chart (PNG)."""

import json
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engine import PEERS


@dataclass(frozen=True)
class Panel:
    """Speeds or error rates of programs, a round each: bars of the medians, with the least and the most."""

    title: str
    unit: str
    speeds: dict[str, list[float]]


def write(folder: Path, name: str, settings: dict[str, Any], corpora: dict[str, Any]) -> None:
    """Write `name`.json, .md and .png into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"settings": settings, "corpora": corpora}, indent=1) + "\n")
    (folder / f"{name}.md").write_text(table(settings, corpora))
    chart(folder / f"{name}.png", corpora)


def processor() -> str:
    """The name of this machine's processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def table(settings: dict[str, Any], corpora: dict[str, Any]) -> str:
    """The results as a Markdown table; a speed is seconds of audio in a second."""
    where = "a GPU" if settings["device"] == "cuda" else f"{settings['threads']} cores of {processor()}"
    lines = [
        f"Whisper {settings['model']}, {settings['compute_type']}, on {where}; beam {settings['beam_size']}, "
        f"{_how(settings)}, language {settings['language'] or 'detected'}, batches of {settings['batch_size']}; "
        f"median of {settings['rounds']} rounds.",
    ]
    for kind, results in corpora.items():
        lines += [
            "",
            f"{results['files']} {kind}, {results['audio_s'] / 60:.0f} minutes in all:",
            "",
            "| | audio s per s (least to most) | ours is | computing | memory | first result | windows | tokens |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for engine, one in results["engines"].items():
            ratio = f"{one['ratio']:.2f} times" if engine != "ours" and "ratio" in one else ""
            memory = f"{one['memory_mb']:.0f} MB"
            if "gpu_memory_mb" in one:
                memory += f", GPU {one['gpu_memory_mb']:.0f} MB"
            lines.append(
                f"| {PEERS[engine]} | {one['speed']:.1f} ({min(one['speeds']):.1f} to {max(one['speeds']):.1f}) | "
                f"{ratio} | {one['computing']:.0%} | {memory} | {one['first_s']:.1f} s | {one['windows']:.0f} | "
                f"{one['tokens']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def _how(settings: dict[str, Any]) -> str:
    """What is decoded, and for whom words have times."""
    decoded = f"{settings['tokens']} tokens a window" if settings["tokens"] else "real speech, guards on"
    return f"{decoded}, word times in {'all' if settings['word_times'] else 'ours alone'}"


def chart(path: Path, corpora: dict[str, Any]) -> None:
    """The speeds, a panel for each corpus."""
    panels = [
        Panel(
            kind, "seconds of audio in a second", {name: one["speeds"] for name, one in results["engines"].items()}
        )
        for kind, results in corpora.items()
    ]
    draw(path, panels)


def draw(path: Path, panels: list[Panel]) -> None:
    """Write a chart of the panels, three in a row at most."""
    import matplotlib  # here: the tests' environment lacks it, and they read the tables alone

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(5.5 * columns, 3 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        medians = {name: statistics.median(speeds) for name, speeds in panel.speeds.items()}
        spread = [
            [medians[name] - min(speeds) for name, speeds in panel.speeds.items()],
            [max(speeds) - medians[name] for name, speeds in panel.speeds.items()],
        ]
        one_round = all(len(speeds) == 1 for speeds in panel.speeds.values())
        colours = ["#1f6f8b" if name.startswith("ours") else "#b8b8b8" for name in medians]
        bars = axis.barh(
            list(medians), list(medians.values()), xerr=None if one_round else spread, color=colours, capsize=3
        )
        if one_round:
            axis.bar_label(bars, fmt="%.3g", padding=3)
            axis.margins(x=0.1)  # room for them
        axis.set_xlim(0, None if any(medians.values()) else 1)
        axis.invert_yaxis()
        axis.set_title(panel.title)
        axis.set_xlabel(panel.unit)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
