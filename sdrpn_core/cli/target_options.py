"""Options that say what a map learns from judged regions."""

from __future__ import annotations

from typing import Annotated

import typer

Form = Annotated[
    str | None,
    typer.Option(
        metavar="labels|policy",
        help="What the map learns: labels of the best region (labels, the default), or all judged "
        "regions, weighted by worth (policy).",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        help="With --form labels, regions this many nats below the best one are as good; "
        "default: 0.1."
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="With --form policy, nats by which a region is worth e times as much; default: 0.5."
    ),
]
