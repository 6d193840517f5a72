"""The utility stage: from questions about images to the worth of candidate regions.

Per record, a reference response is made, candidates are proposed, and the response's likelihood is
taken without and with each of them. The image and the text before it run once for all candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.utility import Worth, worth_of_crops
from sdrpn_core.backbone.adapter import Question
from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.crops.candidates import RegionSampler
from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record, RecordSource, only_image, validate_record
from sdrpn_core.errors import ConfigError, ImageError, InputError, SdrpnError
from sdrpn_core.shards.image_cell import portable_image
from sdrpn_core.shards.making import Advance, make_missing_shards
from sdrpn_core.util.checksums import tensor_checksum
from sdrpn_core.util.isolate_failures import ITEM_ERRORS, isolate_failures
from sdrpn_core.util.package_versions import package_versions
from sdrpn_core.util.prefetch import prefetched
from sdrpn_core.utility.candidates import CandidateSource, Found, GivenCandidates, RPNCandidates
from sdrpn_core.utility.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_CANDIDATES,
    DEFAULT_SHARD_SIZE,
)
from sdrpn_core.utility.reference import Reference
from sdrpn_core.utility.row import Candidate, UtilityRow, UtilityStatus
from sdrpn_core.utility.run import UtilityManifest, UtilityRun, open_run

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.shards.run import RunSummary

__all__ = ["UtilityMaker", "judge_crops"]


def judge_crops(
    backbone: Backbone,
    records: str | Path | Sequence[Record],
    folder: str | Path,
    rpn: RPN | None = None,
    *,
    reference: Reference | None = None,
    sampler: RegionSampler | None = None,
    n_candidates: int = DEFAULT_CANDIDATES,
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
        reference: how reference responses are made; default: the backbone's own.
        sampler: draws regions from the RPN's map; default: ``n_candidates`` of them, of sizes that
            suit the RPN's crop policy.
        n_candidates: how many the default sampler draws per record; 0: none.
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
        ConfigError: an impossible size, a backbone that was loaded in part, or no way to a
            reference.
        InputError: the source cannot be read; a record that cannot be used is skipped.
        ShardError: ``folder`` holds another run.
        SdrpnError: a shard cannot be written (full disk); the finished ones stay.
    """
    source = records if isinstance(records, RecordSource) else read_records(records)
    if sampler is None and rpn is not None and n_candidates:
        sampler = default_sampler(rpn, n_candidates)
    maker = UtilityMaker(
        backbone, source, rpn, reference or Reference(), sampler, batch_size, max_pixels
    )
    manifest = maker.manifest(shard_size)
    return make_missing_shards(
        lambda anew: open_run(folder, manifest, overwrite=anew),
        maker.make,
        backbone.device,
        overwrite=overwrite,
        progress=progress,
        verb="judge",
    )


def default_sampler(rpn: RPN, n_candidates: int, seed: int = 0) -> RegionSampler:
    """A sampler whose boxes are no smaller than those that the RPN's crop policy makes.

    Args:
        rpn: the RPN.
        n_candidates: regions per record.
        seed: of the draws.
    """
    policy = rpn.config.crop_policy()
    min_area = int(policy.options().get("min_area", 1))
    return RegionSampler(n=n_candidates, min_area=min_area, seed=seed)


@dataclass(frozen=True)
class _Prepared:
    """A record that can be asked."""

    index: int
    record: Record
    question: Question


@dataclass(frozen=True, eq=False)
class UtilityMaker:
    """Makes shards of a run, in whatever process holds it.

    Attributes:
        backbone: the model.
        source: all records of the run.
        rpn: proposes regions; ``None`` judges the boxes of the records alone.
        reference: how reference responses are made.
        sampler: draws regions from the RPN's map; ``None`` for the policy's alone.
        batch_size: records that go through the model together, and sequences per pass.
        max_pixels: images with more pixels count as unreadable.

    Raises:
        ConfigError: a size is not positive, the backbone was loaded in part, or it has no way to a
            reference.
    """

    backbone: Backbone
    source: RecordSource
    rpn: RPN | None
    reference: Reference
    sampler: RegionSampler | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, not {getattr(self, name)}")
        self.backbone.check_whole("judging crops")
        self.reference.check(self.backbone, self.rpn)

    @cached_property
    def sources(self) -> tuple[CandidateSource, ...]:
        """Where candidates come from, in order."""
        if self.rpn is None:
            return (GivenCandidates(),)
        return RPNCandidates(self.rpn, self.sampler), GivenCandidates()

    def manifest(self, shard_size: int, *, dataset: str | None = None) -> UtilityManifest:
        """What decides the content of the run.

        Args:
            shard_size: records per shard.
            dataset: what the data is called; default: the source's name.

        Raises:
            ConfigError: the shard size is not positive.
        """
        if shard_size < 1:
            raise ConfigError(f"shard_size must be 1 or more, not {shard_size}")
        candidates: dict[str, Any] = {}
        for source in self.sources:
            candidates |= source.facts()
        weights = None if self.rpn is None else tensor_checksum(self.rpn.state_dict())
        provenance: dict[str, Any] = {
            "backbone": backbone_identity(self.backbone, branch=0),
            "rpn": weights,
            "reference": self.reference.facts(),
            "candidates": candidates,
            "compute": {
                "max_pixels": self.max_pixels,
                "dtype": str(self.backbone.model.dtype).removeprefix("torch."),
                "device": self.backbone.device.type,
            },
            "versions": package_versions(),
        }
        return UtilityManifest(
            records=len(self.source),
            fingerprint=self.source.fingerprint,
            shard_size=shard_size,
            dataset=self.source.name if dataset is None else dataset,
            provenance=provenance,
        )

    def make(self, run: UtilityRun, shard: int, advance: Advance | None = None) -> None:
        """Make one shard and write it.

        Args:
            run: where to.
            shard: its number.
            advance: of a progress bar.

        Raises:
            SdrpnError: it cannot be written.
        """
        indices = run.manifest.shard_records(shard)
        rows: list[UtilityRow] = []
        ready = prefetched((self._prepare(index) for index in indices), self.batch_size)
        with closing(ready):
            while batch := list(islice(ready, self.batch_size)):
                rows += self._judge(batch)
                if advance is not None:
                    advance(len(batch))
        run.write_shard(shard, rows)

    def _prepare(self, index: int) -> _Prepared | UtilityRow:
        """Check a record and open its image; a row if it cannot be used."""
        record = self.source[index]
        try:
            validate_record(record)
            image = open_image(only_image(record, "judging crops"), max_pixels=self.max_pixels)
            # What cannot be asked fails here, and not its batch.
            self.backbone.tokenize(record.question, 1)
        except ImageError as error:
            return UtilityRow.skip(index, record, UtilityStatus.UNREADABLE, str(error))
        except InputError as error:
            return UtilityRow.skip(index, record, UtilityStatus.INVALID, str(error))
        return _Prepared(index, record, Question(record.question, (image,)))

    def _judge(self, batch: Sequence[_Prepared | UtilityRow]) -> list[UtilityRow]:
        """Judge what can be asked; what is a row already, that of a skipped record, stays."""
        rows = [one for one in batch if isinstance(one, UtilityRow)]
        asked = [one for one in batch if isinstance(one, _Prepared)]
        if not asked:
            return rows
        for part, result in isolate_failures(asked, self._judge_together, ITEM_ERRORS):
            if isinstance(result, SdrpnError):
                status = UtilityStatus.INVALID
                rows.append(UtilityRow.skip(part[0].index, part[0].record, status, str(result)))
            else:
                rows += result
        return rows

    def _judge_together(self, asked: Sequence[_Prepared]) -> list[UtilityRow]:
        references = self.reference.ids(
            self.backbone,
            self.rpn,
            [one.record for one in asked],
            [one.question for one in asked],
        )
        rows: list[UtilityRow] = []
        judged: list[tuple[_Prepared, tuple[int, ...]]] = []
        for one, ids in zip(asked, references, strict=True):
            if isinstance(ids, tuple) and ids:
                judged.append((one, ids))
                continue
            reason = str(ids) if isinstance(ids, InputError) else "the reference response is empty"
            rows.append(UtilityRow.skip(one.index, one.record, UtilityStatus.NO_RESPONSE, reason))
        if judged:
            rows += self._judge_referenced([one for one, _ in judged], [ids for _, ids in judged])
        return rows

    def _judge_referenced(
        self, asked: Sequence[_Prepared], references: Sequence[tuple[int, ...]]
    ) -> list[UtilityRow]:
        state = prefill(self.backbone, [one.question for one in asked], self.rpn)
        found: list[Found] = [[] for _ in asked]
        for source in self.sources:
            proposed = source.propose(state, [one.record for one in asked])
            for own, more in zip(found, proposed, strict=True):
                own += more
        worth = worth_of_crops(
            state,
            [[(proposal,) for _, proposal in own] for own in found],
            references,
            batch_size=self.batch_size,
        )
        return [
            self._row(state, place, one, ids, own, value)
            for place, (one, ids, own, value) in enumerate(
                zip(asked, references, found, worth, strict=True)
            )
        ]

    def _row(
        self,
        state: Prefill,
        place: int,
        prepared: _Prepared,
        ids: tuple[int, ...],
        found: Found,
        worth: Worth,
    ) -> UtilityRow:
        record = prepared.record
        if not all(map(math.isfinite, (worth.plain, *worth.cropped))):
            reason = "a likelihood of the reference response is not finite"
            return UtilityRow.skip(prepared.index, record, UtilityStatus.INVALID, reason)
        candidates = tuple(
            Candidate(
                source=source,
                boxes=tuple(crop.box for crop in proposal.plan.crops),
                grid_boxes=tuple(crop.grid_box for crop in proposal.plan.crops),
                crop_tokens=tokens,
                log_likelihood=value,
            )
            for (source, proposal), value, tokens in zip(
                found, worth.cropped, worth.crop_tokens, strict=True
            )
        )
        (geometry,) = state.prompts[place].geometries
        decoded = self.backbone.tokenizer.decode(list(ids), skip_special_tokens=True).strip()
        return UtilityRow(
            index=prepared.index,
            id=record.id,
            question=record.question,
            image=portable_image(record.images[0]),
            response=decoded,
            response_ids=ids,
            plain=worth.plain,
            candidates=candidates,
            geometry=geometry,
        )
