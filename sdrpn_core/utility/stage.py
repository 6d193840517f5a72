"""The utility stage: from questions about images to the worth of candidate regions.

Per record, a reference response is made, candidates are proposed, and the response's likelihood is
taken without and with each of them. The image and the text before it run once for the reference and
all candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.answering.budgets import check_budgets
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.prefix_store import UNLIMITED_BYTES, PrefixStore
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.crops.candidates import RegionSampler
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.errors import ConfigError, ImageError, InputError, SdrpnError
from sdrpn_core.rpn.map_checksum import map_checksum
from sdrpn_core.shards.image_cell import portable_image
from sdrpn_core.shards.making import make_missing_shards
from sdrpn_core.utility.candidates import CandidateSource, Found, GivenCandidates, RPNCandidates
from sdrpn_core.utility.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_CANDIDATES,
    DEFAULT_SHARD_SIZE,
)
from sdrpn_core.utility.likelihoods import CropLikelihoods, crop_likelihoods
from sdrpn_core.utility.record_maker import OpenedRecord, RecordMaker
from sdrpn_core.utility.reference import Reference
from sdrpn_core.utility.row import Candidate, UtilityRow, UtilityStatus
from sdrpn_core.utility.run import UtilityManifest, open_run

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.crops.policy import CropPolicy
    from sdrpn_core.grid.geometry import Geometry
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.shards.run import RunSummary

__all__ = ["UtilityMaker", "default_sampler", "judge_crops"]

#: Of an RPN's configuration, what the manifest does without: policy and options are those of the
#: candidates, and a gate is not asked.
_BESIDE_THE_RPN = ("versions", "gate", "policy", "policy_options")


def judge_crops(
    backbone: Backbone,
    records: str | Path | Sequence[Record],
    folder: str | Path,
    rpn: RPN | None = None,
    *,
    policy: CropPolicy | None = None,
    reference: Reference | None = None,
    sampler: RegionSampler | None = None,
    n_candidates: int = DEFAULT_CANDIDATES,
    first_look_tokens: int | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    shard_size: int = DEFAULT_SHARD_SIZE,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    progress: bool = True,
) -> RunSummary:
    """Judge the candidate regions of records, or continue where an interrupted run stopped.

    Candidates are the region that the RPN's policy crops, regions drawn from its map, and the
    record's boxes where they are known. Under ``accelerate launch`` every process calls this with
    the same arguments and gets the same summary.

    Args:
        backbone: the model.
        records: a source, or what :func:`~sdrpn_core.data.read.read_records` takes.
        folder: where the shards go; holds one run.
        rpn: proposes regions; ``None`` judges the boxes of the records alone.
        policy: crops the RPN's own region; default: the one in its configuration.
        reference: how reference responses are made; default: the backbone's own.
        sampler: draws regions from the RPN's map; default: ``n_candidates`` of them, of sizes that
            suit the RPN's crop policy.
        n_candidates: how many the default sampler draws per record; 0: none.
        first_look_tokens: see :func:`~sdrpn_core.answering.answer.answer_batch`: what crops are
            worth in addition to a look at the whole image with so many visual tokens.
        batch_size: records that go through the model together, and sequences per pass. Moves the
            last bits of the likelihoods, by padding, so it is free to change when a run is
            continued.
        shard_size: records per shard, which is what a kill can lose.
        max_pixels: images with more pixels count as unreadable.
        overwrite: remove the run that is in ``folder``.
        progress: show a bar on the main process.

    Returns:
        Rows per status, and the id and reason of every record that was skipped.

    Raises:
        ConfigError: an impossible size, a backbone that was loaded in part, a budget of visual
            tokens where the resolution is fixed, or no way to a reference.
        InputError: the source cannot be read; a record that cannot be used is skipped.
        ShardError: ``folder`` holds another run.
        SdrpnError: a shard cannot be written (full disk); the finished ones stay.
    """
    source = records if isinstance(records, RecordSource) else read_records(records)
    if rpn is not None:
        policy = policy or rpn.config.crop_policy()
        if sampler is None and n_candidates:
            sampler = default_sampler(policy, n_candidates)
    maker = UtilityMaker(
        backbone,
        source,
        rpn,
        policy,
        reference or Reference(),
        sampler,
        first_look_tokens,
        batch_size=batch_size,
        max_pixels=max_pixels,
    )
    manifest = UtilityManifest(**maker.manifest_fields(shard_size))
    return make_missing_shards(
        lambda anew: open_run(folder, manifest, overwrite=anew),
        maker.make,
        backbone.device,
        overwrite=overwrite,
        progress=progress,
        verb="judge",
    )


def default_sampler(policy: CropPolicy, n_candidates: int, seed: int = 0) -> RegionSampler:
    """A sampler whose boxes are no smaller than those that a crop policy makes.

    Args:
        policy: the one that will crop.
        n_candidates: regions per record.
        seed: of the draws.
    """
    min_area = int(policy.options().get("min_area", 1))
    return RegionSampler(n=n_candidates, min_area=min_area, seed=seed)


@dataclass(frozen=True, eq=False)
class UtilityMaker(RecordMaker[UtilityRow]):
    """Makes shards of judged records.

    Adds to the attributes of ``RecordMaker``:

    Attributes:
        rpn: proposes regions; ``None`` judges the boxes of the records alone.
        policy: crops the RPN's own region; ``None`` where there is no RPN.
        reference: how reference responses are made.
        sampler: draws regions from the RPN's map; ``None`` for the policy's alone.
        first_look_tokens: visual tokens of whole images at most.

    Raises:
        ConfigError: see :func:`judge_crops`.
    """

    purpose = "judging crops"

    rpn: RPN | None
    policy: CropPolicy | None
    reference: Reference
    sampler: RegionSampler | None = None
    first_look_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rpn is None and (self.policy is not None or self.sampler is not None):
            raise ConfigError("a crop policy and a sampler need the map of an RPN")
        check_budgets(self.backbone, self.policy, self.first_look_tokens)
        self.reference.check(self.backbone, self.proposer)

    @cached_property
    def proposer(self) -> RPNProposer | None:
        """Proposes the RPN's own region; its gate is not asked, as it is the region that counts."""
        if self.rpn is None:
            return None
        return RPNProposer(self.rpn, self.policy, gate_threshold=0.0)

    @property
    def looks(self) -> Sequence[int | None]:
        """The first look alone."""
        return (self.first_look_tokens,)

    @cached_property
    def sources(self) -> tuple[CandidateSource, ...]:
        """Where candidates come from, in order."""
        if self.proposer is None:
            return (GivenCandidates(),)
        # All crops may cost the same.
        given = GivenCandidates(max_crop_tokens=self.proposer.policy.crop_budget)
        return RPNCandidates(self.proposer, self.sampler), given

    def facts(self) -> dict[str, Any]:
        """The RPN, and how regions and references are made."""
        candidates: dict[str, Any] = {}
        for source in self.sources:
            candidates |= source.facts()
        weights, config = None, None
        if self.rpn is not None:
            weights = map_checksum(self.rpn)
            values = self.rpn.config.to_dict()
            config = {name: values[name] for name in values if name not in _BESIDE_THE_RPN}
        return {
            "rpn": weights,
            "rpn_config": config,
            "reference": self.reference.facts(),
            "candidates": candidates,
            "first_look_tokens": self.first_look_tokens,
        }

    def skipped(self, index: int, record: Record, error: SdrpnError) -> UtilityRow:
        """The row of a record that cannot be judged."""
        unreadable = isinstance(error, ImageError)
        status = UtilityStatus.UNREADABLE if unreadable else UtilityStatus.INVALID
        return UtilityRow.skip(index, record, status, str(error))

    def rows(self, opened: Sequence[OpenedRecord]) -> list[UtilityRow]:
        """Judge the candidates of a batch."""
        store = PrefixStore(UNLIMITED_BYTES)
        references = self.reference.ids(
            self.backbone,
            self.proposer,
            [one.record for one in opened],
            [question for one in opened for question in one.questions],
            store,
        )
        rows: list[UtilityRow] = []
        judged: list[tuple[OpenedRecord, tuple[int, ...]]] = []
        for one, ids in zip(opened, references, strict=True):
            if isinstance(ids, tuple) and ids:
                judged.append((one, ids))
                continue
            reason = str(ids) if isinstance(ids, InputError) else "the reference response is empty"
            rows.append(UtilityRow.skip(one.index, one.record, UtilityStatus.NO_RESPONSE, reason))
        if judged:
            rows += self._judged([one for one, _ in judged], [ids for _, ids in judged], store)
        return rows

    def _judged(
        self,
        opened: Sequence[OpenedRecord],
        references: Sequence[tuple[int, ...]],
        store: PrefixStore,
    ) -> list[UtilityRow]:
        questions = [question for one in opened for question in one.questions]
        state = prefill(self.backbone, questions, self.rpn, store=store)
        found: list[Found] = [[] for _ in opened]
        for source in self.sources:
            proposed = source.propose(state, [one.record for one in opened])
            for own, more in zip(found, proposed, strict=True):
                own += more
        likelihoods = crop_likelihoods(
            state,
            [[(proposal,) for _, proposal in own] for own in found],
            references,
            batch_size=self.batch_size,
        )
        geometries = [geometry for prompt in state.prompts for geometry in prompt.geometries]
        return [
            self._row(*values)
            for values in zip(opened, references, found, likelihoods, geometries, strict=True)
        ]

    def _row(
        self,
        opened: OpenedRecord,
        ids: tuple[int, ...],
        found: Found,
        likelihoods: CropLikelihoods,
        geometry: Geometry,
    ) -> UtilityRow:
        record = opened.record
        if not all(map(math.isfinite, (likelihoods.plain, *likelihoods.cropped))):
            reason = "a likelihood of the reference response is not finite"
            return UtilityRow.skip(opened.index, record, UtilityStatus.INVALID, reason)
        candidates = tuple(
            Candidate(
                source=source,
                boxes=tuple(crop.box for crop in kept.plan.crops),
                grid_boxes=tuple(crop.grid_box for crop in kept.plan.crops),
                crop_tokens=tokens,
                log_likelihood=value,
            )
            for (source, _), (kept,), value, tokens in zip(
                found,
                likelihoods.proposals,
                likelihoods.cropped,
                likelihoods.crop_tokens,
                strict=True,
            )
        )
        decoded = self.backbone.tokenizer.decode(list(ids), skip_special_tokens=True).strip()
        return UtilityRow(
            index=opened.index,
            id=record.id,
            question=record.question,
            image=portable_image(record.images[0]),
            response=decoded,
            response_ids=ids,
            plain=likelihoods.plain,
            candidates=candidates,
            geometry=geometry,
        )
