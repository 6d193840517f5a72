"""ZoomEye's two searches, as generators: they ask for confidences, and somebody else computes them.

So any number of searches can go on side by side, and what they ask for at a time is one batch.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from sdrpn_zoomeye.tree import CropTree, Node

Aspect = Literal["existence", "latent", "answering"]
"""Whether the cue is to be seen, whether it might be found further down, or whether the question
can be answered from what is seen."""


@dataclass(frozen=True)
class Query:
    """How confident is the model that a view of a node ...

    Attributes:
        node: the view.
        aspect: what is asked about it.
        about: the cue, or for ``answering`` the question.
    """

    node: Node
    aspect: Aspect
    about: str


Search = Generator[list[Query], Sequence[float], list[Node]]
"""Yields queries, is sent their confidences from -1 to 1, and returns the nodes that it found."""


@dataclass(frozen=True)
class SearchRules:
    """The numbers of the search (published values).

    Attributes:
        upper: confidence in the answer at which a search ends.
        lower: a search gives up once it would have to be content with less.
        steps: by how much the confidence that suffices is lowered, each time that the budget of
            nodes has been spent; the last one repeats.
        nodes_per_level: the first budget of nodes, per level of the tree.
        nodes_more: by how many the budget then grows.
        max_depth: of the nodes that are searched.
        bias: weight of what is seen at the root, against what might be found; it grows to 1 at the
            deepest level.
        existence: from which confidence on a cue counts as one of all that are looked for.
        all_depth: of the nodes among which all occurrences are looked for.
    """

    upper: float = 0.6
    lower: float = 0.0
    steps: tuple[float, ...] = (0.1, 0.1, 0.2)
    nodes_per_level: int = 3
    nodes_more: int = 2
    max_depth: int = 5
    bias: float = 0.6
    existence: float = 0.6
    all_depth: int = 2


def search_one(
    tree: CropTree, cue: str, question: str, rules: SearchRules, *, to_bottom: bool = False
) -> Search:
    """Look for one thing: best first, until the question can be answered from a node.

    Args:
        tree: the image.
        cue: what to look for.
        question: what is to be answered.
        rules: the numbers.
        to_bottom: go on until a node without children has been visited.

    Returns:
        The node, or none.
    """
    deepest = min(tree.depth, rules.max_depth)
    budget = rules.nodes_per_level * deepest
    enough, steps = rules.upper, list(rules.steps)
    queue = [tree.root]
    priorities: dict[Node, float] = {}
    visited: list[tuple[float, Node]] = []
    found: list[tuple[float, Node]] = []
    at_bottom = False
    while queue:
        node = queue.pop(0)
        (confidence,) = yield [Query(node, "answering", question)]
        visited.append((confidence, node))
        if confidence >= enough:
            found.append((confidence, node))
            if at_bottom or not to_bottom:
                break
        elif len(visited) >= budget:
            enough -= steps[0]
            steps = steps[1:] or steps
            budget += rules.nodes_more
            best = max(visited, key=lambda one: one[0])
            if best[0] >= enough:
                found = [best]
            if found or enough < rules.lower:
                break
        children = tree.children(node) if node.depth < deepest else ()
        if not children:
            at_bottom = True
            if found:
                break
        queue += children
        new = [one for one in queue if one not in priorities]
        priorities |= yield from _priorities(tree, new, cue, rules)
        queue.sort(key=lambda one: priorities[one], reverse=True)
    # Of several, the closest look.
    return [max((node for _, node in found), key=lambda one: one.depth)] if found else []


def search_all(tree: CropTree, cue: str, rules: SearchRules) -> Search:
    """Look for everything of a kind: nodes that show it more surely than their parts do.

    Args:
        tree: the image.
        cue: what to look for.
        rules: the numbers.
    """
    levels = [[tree.root]]
    while len(levels) <= rules.all_depth and levels[-1]:
        levels.append([child for node in levels[-1] for child in tree.children(node)])
    nodes = [node for level in levels for node in level]
    values = yield [Query(node, "existence", cue) for node in nodes]
    confidence = dict(zip(nodes, values, strict=True))
    best: dict[Node, float] = {}
    found = []
    for node in reversed(nodes):  # parts before the whole
        parts = tree.children(node) if node.depth < rules.all_depth else ()
        below = max((best[part] for part in parts), default=-1.0)
        best[node] = max(below, confidence[node])
        if confidence[node] >= max(below, rules.existence):
            found.append(node)
    return found[::-1]


def _priorities(
    tree: CropTree, nodes: Sequence[Node], cue: str, rules: SearchRules
) -> Generator[list[Query], Sequence[float], dict[Node, float]]:
    """What is worth a look next: where the cue is seen, or might be found."""
    if not nodes:
        return {}
    values = yield [
        Query(node, aspect, cue) for node in nodes for aspect in ("existence", "latent")
    ]
    depth = tree.depth
    found = {}
    for node, seen, latent in zip(nodes, values[::2], values[1::2], strict=True):
        weight = rules.bias + (1 - rules.bias) * (node.depth / depth) ** 2
        found[node] = weight * seen + (1 - weight) * latent
    return found
