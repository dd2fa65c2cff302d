"""Draw a figure and save it as PNG."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .files import write_aside

__all__ = ["draw_legend", "drawing"]


@contextmanager
def drawing(path: Path, columns: int, width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """Yield a figure and its axes, one per plot; save it as PNG at the end of the block.

    Args:
        path: path of the PNG file.
        columns: number of plots side by side.
        width: width of the figure, inches.
        height: height of the figure, inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # without pyplot, which chooses a backend for the whole process
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure, figure.subplots(1, columns, squeeze=False)[0]
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    write_aside(path, data.getvalue())


def draw_legend(axes: Any, **options: Any) -> None:
    """Draw the legend of a plot at its lower right; without labels, draw nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", **options)
