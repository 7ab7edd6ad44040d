"""A report as a picture: is the router's probability right, and what does quality cost?"""

from __future__ import annotations

from pathlib import Path

from serve_app.errors import SettingsError
from serve_app.evaluation.router import Report


def draw(report: Report, path: Path) -> None:
    """Reliability of each property, and the cost-quality curves where there are outcomes.

    Raises:
        SettingsError: The file cannot be written, or its ending names no format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = [(section, "reliability") for section in report.sections if section.reliability]
    panels += [(section, "cost") for section in report.sections if section.curves]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.5 * len(panels), 4.5), squeeze=False, layout="constrained"
    )
    for axis, (section, kind) in zip(axes[0], panels, strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linestyle="--")
        if kind == "reliability" and section.reliability:
            probabilities, frequencies, counts = zip(*section.reliability, strict=True)
            most = max(counts)
            sizes = [20 + 180 * count / most for count in counts]
            axis.scatter(probabilities, frequencies, s=sizes)
            axis.plot(probabilities, frequencies)
            axis.set(xlabel="probability given", ylabel="how often it was so")
            [error] = [scores["ece"] for scores in section.scores.values() if "ece" in scores]
            axis.set_title(f"{section.name}: ECE {error:.3f}")
        elif section.curves:
            for name, (calls, recovered) in section.curves.items():
                apgr = section.scores[name]["apgr"]
                axis.plot(calls, recovered, label=f"{name} (APGR {apgr:.3f})")
            axis.legend()
            axis.set(xlabel="calls to the strong model", ylabel="quality gap recovered")
            axis.set_title(f"{section.name}: {section.rows} rows")
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: the picture cannot be written: {error}") from None
    finally:
        plt.close(figure)
