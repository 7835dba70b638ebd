"""How the report looks: one colour, marker and name a selector, the same in every picture.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which stay apart with every common colour blindness;
markers and direct labels tell the selectors apart without any colour.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viarl.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY = (
    "#000000",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#7f7f7f",
)
INK, FAINT = "#333333", "#d9d9d9"
LINES = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "X"), (BLACK, "v"))  # by benchmark


@dataclass(frozen=True)
class Look:
    """A selector's name in print, colour, marker and line."""

    name: str
    colour: str
    marker: str
    line: str = "-"


LOOKS = {
    "learned": Look("learned", BLUE, "o"),
    "learned_sampled": Look("learned, sampled", BLUE, "*", ":"),
    "learned_base_answerer": Look("learned, base answerer", BLUE, "d", "-."),
    "base": Look("base selector", SKY, "s"),
    "base_sampled": Look("base, sampled", SKY, "P", ":"),
    "oracle": Look("oracle", GREEN, "^", "--"),
    "uniform": Look("uniform", BLACK, "D"),
    "random": Look("random", GREY, "v"),
    "clip_topk": Look("CLIP top-K", ORANGE, "X"),
    "bolt": Look("BOLT", VERMILION, "<"),
    "aks": Look("AKS", PURPLE, ">"),
    "qframe": Look("Q-Frame", "#8c6d1f", "p"),
    "blind": Look("no frames, any rotation", "#5b5b5b", "1", ":"),
}
LUCK = (
    "On questions whose evidence is unknown the oracle counts as right if one of several random choices is, and joins "
    '"no frames, any rotation": right if one of the answers without a frame is, each with the options in another order.'
)


def look(selector: str) -> Look:
    """Return a selector's look; a selector that is not listed gets its own name in grey."""
    return LOOKS.get(selector) or Look(selector, "#5b5b5b", "h")


def in_order(selectors: Iterable[str]) -> list[str]:
    """Return selector names in the order of LOOKS, others last by name."""
    known = list(LOOKS)
    return sorted(set(selectors), key=lambda name: (known.index(name) if name in known else len(known), name))


def figure(width: float, height: float) -> "Figure":
    """Return an empty figure (inches) in the report's style, without a display."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes = {"edgecolor": INK, "labelcolor": INK, "grid": True, "axisbelow": True}
    matplotlib.rc("axes", titlesize=11, titleweight="bold", titlelocation="left", **axes)
    matplotlib.rc("axes.spines", top=False, right=False)
    matplotlib.rc("xtick", color=INK)
    matplotlib.rc("ytick", color=INK)
    matplotlib.rc("text", color=INK, parse_math=False)  # names of files and questions are no formulas
    matplotlib.rc("font", size=10)
    matplotlib.rc("grid", color="#ececec", linewidth=0.8)
    matplotlib.rc("legend", frameon=False)
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(drawn: "Figure | str", path: Path) -> None:
    """Write a figure, or a text that says why there is none, as PNG at 150 dots an inch, atomically."""
    if isinstance(drawn, str):
        text, drawn = drawn, figure(6.4, 1.6)
        drawn.text(0.5, 0.5, text, ha="center", va="center")
    with atomic_path(path) as temporary:
        drawn.savefig(temporary, format="png", dpi=150, facecolor="white")


def legend(made: "Figure", axes: Iterable["Axes"], columns: int | None = None) -> None:
    """Put one legend of all axes below a figure, each label once."""
    handles = {label: handle for each in axes for handle, label in zip(*each.get_legend_handles_labels(), strict=True)}
    made.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns or len(handles))


def spread(wanted: Sequence[float], distance: float) -> list[float]:
    """Return positions near the wanted ones that are at least `distance` apart, in the same order.

    Labels that would overlap form a block around the mean of what they want; blocks that meet are merged.
    """
    blocks: list[tuple[list[int], float]] = []  # members, centre
    for i in sorted(range(len(wanted)), key=lambda i: wanted[i]):
        members, centre = [i], wanted[i]
        while blocks and centre - blocks[-1][1] < distance * (len(members) + len(blocks[-1][0])) / 2:
            members = blocks.pop()[0] + members
            centre = sum(wanted[j] for j in members) / len(members)
        blocks.append((members, centre))
    placed = [0.0] * len(wanted)
    for members, centre in blocks:
        for rank, i in enumerate(members):
            placed[i] = centre + distance * (rank - (len(members) - 1) / 2)
    return placed


def label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]], points: float = 9.0) -> None:
    """Write labels right of line ends (x, y, text, colour) without overlap; thin leaders join them to the lines.

    Call it last: it needs the final limits of the axis.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    made = axes.get_figure(root=True)
    assert made is not None
    made.draw_without_rendering()  # settles the layout, so that the axis has its final height
    distance = (high - low) * 1.3 * points * made.get_dpi() / 72 / axes.get_window_extent().height
    places = spread([y for _, y, _, _ in ends], distance)
    shift = max(0.0, low + distance / 2 - min(places)) - max(0.0, max(places) - (high - distance / 2))
    leader = {"arrowstyle": "-", "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 3}
    how: dict[str, Any] = {"textcoords": "axes fraction", "fontsize": points, "va": "center", "annotation_clip": False}
    for (x, y, text, colour), place in zip(ends, places, strict=True):
        where = (1.03, (place + shift - low) / (high - low))
        axes.annotate(text, (x, y), where, color=colour, arrowprops={**leader, "color": colour}, **how)
