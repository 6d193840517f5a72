"""What the tests of the label and train stages share: records, a recipe, a label run."""

from __future__ import annotations

from pathlib import Path

from sdrpn_core.data.record import Record
from sdrpn_core.labels.recipe import LabelRecipe
from tests.tiny import tiny_image

#: Reads layers on both sides of the branch, and labels nearly every random map.
RECIPE = LabelRecipe(
    grounding={2: (0, 1), 3: (2,)}, sink={1: "all"}, sink_threshold=0.1, max_box_fraction=1.0
)
#: For runs that agree up to the last bits. Adam divides by the gradient's own size, so that where a
#: gradient is nearly nothing the last bits decide on a whole step; here a step is as long as the
#: gradient. Weights move by up to 0.04 then, and padding moves them by 1e-7.
LINEAR = {"optimizer": "sgd", "learning_rate": 0.1}
SAME_UP_TO_LAST_BITS = {"rtol": 0.0, "atol": 1e-6}
QUESTIONS = ("what color is the dot?", "which shape is left of the square?", "read the sign")
RESPONSES = ("red dot", "the small square", "yes")


def records(n: int, *, answered: bool = True) -> list[Record]:
    """Records with images of several shapes; ``answered``: with a response."""
    return [
        Record(
            f"r{index}",
            tiny_image(index, (60 + 17 * (index % 5), 60)),
            QUESTIONS[index % len(QUESTIONS)],
            response=RESPONSES[index % len(RESPONSES)] if answered else None,
        )
        for index in range(n)
    ]


def files(folder: Path) -> dict[str, bytes]:
    """Name and content of everything in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
