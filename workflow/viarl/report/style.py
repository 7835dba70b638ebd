"""How the report looks: one colour, marker and name a selector, the same in every picture.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which stay apart with every common colour blindness;
markers and direct labels tell the selectors apart without any colour.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from viarl.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#7f7f7f",
)  # fmt: skip
INK, FAINT = "#333333", "#d9d9d9"


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
_OTHER = Look("", "#5b5b5b", "h")


def look(selector: str) -> Look:
    """Return a selector's look; a selector that is not listed gets its own name in grey."""
    return LOOKS.get(selector) or Look(selector, _OTHER.colour, _OTHER.marker)


def in_order(selectors: Iterable[str]) -> list[str]:
    """Return selector names in the order of LOOKS, others last by name."""
    known = list(LOOKS)
    return sorted(set(selectors), key=lambda name: (known.index(name) if name in known else len(known), name))


def figure(width: float, height: float) -> "Figure":
    """Return an empty figure (inches) in the report's style, without a display."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(
        {
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#ececec",
            "grid.linewidth": 0.8,
            "legend.frameon": False,
            # The names of files and questions are shown as they are, never read as formulas.
            "text.parse_math": False,
        }
    )
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(drawn: "Figure | str", path: Path) -> None:
    """Write a figure, or a text that says why there is none, as PNG at 150 dots an inch, atomically."""
    made = figure(6.4, 1.6) if isinstance(drawn, str) else drawn
    if isinstance(drawn, str):
        made.text(0.5, 0.5, drawn, ha="center", va="center")
    with atomic_path(path) as temporary:
        made.savefig(temporary, format="png", dpi=150, facecolor="white")


def spread(wanted: Sequence[float], distance: float) -> list[float]:
    """Return positions near the wanted ones that are at least `distance` apart, in the same order.

    Labels that would overlap form a block around the mean of what they want; blocks that meet are merged.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[list[int], float]] = []  # members, centre
    for i in order:
        members, centre = [i], wanted[i]
        while blocks and centre - blocks[-1][1] < distance * (len(members) + len(blocks[-1][0])) / 2:
            before, _ = blocks.pop()
            members = before + members
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
    pixels = axes.get_window_extent().height
    distance = (high - low) * 1.3 * points * made.get_dpi() / 72 / pixels
    places = spread([y for _, y, _, _ in ends], distance)
    shift = max(0.0, low + distance / 2 - min(places)) - max(0.0, max(places) - (high - distance / 2))
    for (x, y, text, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            text,
            xy=(x, y),
            xytext=(1.03, (place + shift - low) / (high - low)),
            textcoords="axes fraction",
            fontsize=points,
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )
