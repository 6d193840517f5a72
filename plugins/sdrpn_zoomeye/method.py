"""ZoomEye as a benchmark method: search, then the two-stage answer with what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdrpn_bench.input_side import input_side
from sdrpn_bench.method import Method, MethodContext
from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.crops.policy import Crop, CropPlan, Outcome
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_zoomeye.confidence import Kind, View, Viewer, yes_no_ids
from sdrpn_zoomeye.cues import ALL, name_cues, singular
from sdrpn_zoomeye.search import Query, Search, SearchRules, search_all, search_one
from sdrpn_zoomeye.tree import N_PARTS, CropTree, Node

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.data.record import Record
    from sdrpn_core.grid.geometry import Geometry

#: Where the tree ends for models of dynamic resolution (published for Qwen2.5-VL).
DYNAMIC_SIDE = 448

#: What is asked about one of several things (published).
_ONE_OF_SEVERAL = "What is the appearance of the {}?"


@dataclass(frozen=True)
class ZoomEye(Method):
    """Quarters of the image, visited by the model's own confidence until it can answer.

    Attributes:
        confidence: ``yes_no`` (published) or ``answer``, see
            :data:`~sdrpn_zoomeye.confidence.Kind`. With ``answer`` the model names no cues: the
            question is the only one.
        upper: confidence in the answer at which a search ends; for this and the other numbers
            see :class:`~sdrpn_zoomeye.search.SearchRules`.
        lower: confidence in the answer below which a search gives up.
        max_depth: of the parts that are visited.
        scale: how much wider a view is than its part.
        side: a part that is shorter, in source pixels, is not divided. Default: the side of the
            model's input, but at most 448 for models of dynamic resolution.
    """

    confidence: Kind = "yes_no"
    upper: float = 0.6
    lower: float = 0.0
    max_depth: int = 5
    scale: float = 1.2
    side: int | None = None

    def __post_init__(self) -> None:
        if self.max_depth < 1 or self.scale < 1:
            raise ConfigError("zoomeye: max_depth and scale must be at least 1")
        if self.side is not None and self.side < N_PARTS:
            raise ConfigError(f"zoomeye: side must be at least {N_PARTS}, not {self.side}")

    def unserved(self, context: MethodContext) -> str | None:
        """Refuse models that cannot say Yes or No, and would be asked to."""
        if self.confidence == "answer":
            return None
        try:
            yes_no_ids(context.backbone)
        except ConfigError as error:
            return f"{error}; its option confidence=answer does without"
        return None

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer:
        """Propose what a search finds."""
        return SearchProposer(self, context.max_new_tokens)


class SearchProposer(Proposer):
    """Crops what ZoomEye's search finds; the whole image is no crop.

    Args:
        method: the options.
        max_new_tokens: limit of the answers whose certainty is the confidence.
    """

    def __init__(self, method: ZoomEye, max_new_tokens: int) -> None:
        self.method = method
        self.max_new_tokens = max_new_tokens
        self.rules = SearchRules(upper=method.upper, lower=method.lower, max_depth=method.max_depth)

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """Search all images side by side: what the searches ask for at a time is one batch.

        Raises:
            InputError: a question is about several images.
        """
        for question in state.questions:
            if len(question.images) != 1:
                raise InputError("zoomeye searches one image, and the question has several")
        geometries = [prompt.geometries[0] for prompt in state.prompts]
        trees = [
            CropTree(
                geometry.source_size,
                self.method.side or input_side(state.backbone, geometry, DYNAMIC_SIDE),
            )
            for geometry in geometries
        ]
        viewer = Viewer(state, self.method.confidence, self.max_new_tokens)
        searches = [
            (index, search)
            for index, cues in enumerate(self._cues(state))
            for search in self._searches(trees[index], state.questions[index].text, cues)
        ]
        found: list[list[Node]] = [[] for _ in trees]
        for index, nodes in self._run(searches, trees, viewer):
            found[index] += nodes
        return [
            [self._proposal(tree, nodes, geometry)]
            for tree, nodes, geometry in zip(trees, found, geometries, strict=True)
        ]

    def _cues(self, state: Prefill) -> list[list[str]]:
        texts = [question.text for question in state.questions]
        if self.method.confidence == "answer":
            return [[text] for text in texts]
        return name_cues(state.backbone, texts)

    def _searches(self, tree: CropTree, question: str, cues: Sequence[str]) -> Iterator[Search]:
        for cue in cues:
            if cue.startswith(ALL):
                yield search_all(tree, singular(cue), self.rules)
            elif len(cues) == 1:
                yield search_one(tree, cue, question, self.rules)
            else:
                about = _ONE_OF_SEVERAL.format(cue)
                yield search_one(tree, cue, about, self.rules, to_bottom=True)

    def _run(
        self, searches: Sequence[tuple[int, Search]], trees: Sequence[CropTree], viewer: Viewer
    ) -> Iterator[tuple[int, list[Node]]]:
        """Drive all searches to their ends."""
        waiting: list[tuple[int, Search, list[Query]]] = []
        for index, search in searches:
            waiting.append((index, search, next(search)))
        while waiting:
            values = iter(
                viewer.confidences(
                    [
                        self._view(index, trees[index], query)
                        for index, _, queries in waiting
                        for query in queries
                    ]
                )
            )
            still = []
            for index, search, queries in waiting:
                try:
                    more = search.send([next(values) for _ in queries])
                except StopIteration as end:
                    yield index, end.value
                else:
                    still.append((index, search, more))
            waiting = still

    def _view(self, index: int, tree: CropTree, query: Query) -> View:
        box = None if query.node.is_root else tree.view(query.node, self.method.scale)
        return View(index, box, query.aspect, query.about)

    def _proposal(self, tree: CropTree, nodes: Sequence[Node], geometry: Geometry) -> Proposal:
        """One crop around all that was found (published)."""
        if not nodes or any(node.is_root for node in nodes):
            reason = "the whole image suffices" if nodes else "nothing was found"
            return Proposal(CropPlan(Outcome.NO_ROI, reason=reason))
        boxes = [tree.view(node, self.method.scale) for node in nodes]
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        box = (min(lefts), min(tops), max(rights), max(bottoms))
        return Proposal(CropPlan(Outcome.OK, (Crop(box, geometry.covering_cells(box)),)))
