"""`advhash certify --victim pdq|phash`: below which L2 no change leaves the threshold.

Each picture of the database that is drawn is judged by itself: the proven bound, a change near to
it, and the nearest stored picture that the hash itself puts beyond the threshold. See
docs/victims/certificates.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from advhash.data.images.mixed import one_picture, to_unit
from advhash.data.readers.shared import SIZES as READ_SIZES
from advhash.errors import UsageError, counted
from advhash.experiments.attack.changes import Change, Pixels, write_change
from advhash.experiments.attack.identities import by_identity
from advhash.experiments.attack.operating import pdq_threshold
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.attack.record import file_document
from advhash.experiments.config import TrainConfig, queries_asked
from advhash.experiments.experiment import Experiment, Place, Plan
from advhash.experiments.least_change.config import LeastChangeConfig
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.measures.intervals import median_metric, rate_metric
from advhash.measures.sanity import Flag, check_count, check_pictures
from advhash.registry import EXPERIMENTS
from advhash.reports.least_change import LEAST_CHANGE, LEVELS, LeastChangeRecord
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.storage.run_folder import environment
from advhash.victims.base import HashVictim
from advhash.victims.perceptual.certificates import LinearHash, least_l2, linear_hash
from advhash.victims.perceptual.hashes import PDQ, PerceptualHash, PHash
from advhash.victims.perceptual.resampling import Picture, eight_bit_pixels
from advhash.victims.perceptual.stored_change import least_stored

CODE = ("experiments.attack", "experiments.least_change")
BLOCK = 10  # pictures of a cell
SIZES = ("bound", "real", "attack", "stored")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LeastChangeCell:
    """Pictures of the database, judged one by one.

    config: with every default written out
    rows:   of the database
    names:  by which the cost is learnt
    """

    config: LeastChangeConfig
    rows: tuple[int, ...]
    key: str
    names: tuple[str, ...]

    @property
    def amount(self) -> int:
        return len(self.rows)

    def compute(self, place: Place) -> Result:
        """A row a picture: height, width, half (whether K/2 bits are 1), and what was found.

        Under "shown", by row, the least and the greatest stored change; the tensor "shown ROW" is
        its `Change.images`.
        """
        trained: Trained = place.part("victim")
        victim, threshold = trained.victim, self.config.threshold
        assert isinstance(victim, PerceptualHash)
        assert threshold is not None
        maps: dict[tuple[int, int], LinearHash] = {}
        rows: list[dict[str, Any]] = []
        changes: dict[int, tuple[Change, int]] = {}
        for done, row in enumerate(self.rows):
            place.progress("least change", done, len(self.rows))
            image = to_unit(one_picture(trained.data.database.inputs["image"], row))
            pixels = eight_bit_pixels(image[None])[0].byte().permute(1, 2, 0).contiguous().numpy()
            size = (pixels.shape[0], pixels.shape[1])
            if size not in maps:
                maps[size] = linear_hash(victim, *size)
            answer, moved = judged(victim, maps[size], pixels, threshold)
            rows.append({"row": row, **answer})
            if moved is not None:
                codes = (victim.bits_of(Picture.of(each)) for each in (pixels, moved))
                changes[row] = Change.of(pixels, moved), int(np.not_equal(*codes).sum())
        place.progress("least change", len(self.rows), len(self.rows))
        shown = _extremes(changes)
        return Result(
            {
                "rows": rows,
                "shown": {
                    str(row): {"linf": change.linf, "l2": change.l2, "distance": bits}
                    for row, (change, bits) in shown.items()
                },
            },
            {f"shown {row}": change.images for row, (change, _) in shown.items()},
        )


def _extremes(changes: Mapping[int, tuple[Change, int]]) -> dict[int, tuple[Change, int]]:
    """The least and the greatest change by L2."""
    by_size = sorted(changes, key=lambda row: changes[row][0].l2)
    return {row: changes[row] for row in (*by_size[:1], *by_size[-1:])}


def judged(
    victim: PerceptualHash, linear: LinearHash, pixels: Pixels, threshold: int
) -> tuple[dict[str, Any], Pixels | None]:
    """What one picture (H,W,3) gives: SIZES in grey levels, the root of the mean square.

    half: whether half of the bits are 1; elsewhere values tie and nothing is stated: SIZES are None
    The picture of least stored change comes with it; None where there is none.
    """
    bits = victim.bits_of(Picture.of(pixels))
    half = 2 * int(bits.sum()) == victim.bits
    result: dict[str, Any] = {"height": pixels.shape[0], "width": pixels.shape[1], "half": half}
    if not half:
        return {**result, **dict.fromkeys(SIZES)}, None
    answer = least_l2(linear, bits, pixels, threshold)
    assert answer is not None  # the plan refuses a threshold that nothing leaves
    moved = least_stored(victim, linear, pixels, threshold)
    scale = float(np.sqrt(pixels.size))
    stored = None
    if moved is not None:
        stored = float(np.linalg.norm(moved - pixels.astype(np.float64))) / scale
    sizes = {
        "bound": answer.bound / scale,
        "real": answer.real / scale,
        "attack": answer.attack / scale if np.isfinite(answer.attack) else None,
        "stored": stored,
    }
    return {**result, **sizes}, moved


@EXPERIMENTS.register("least-change", source="advhash")
class LeastChanges(
    Experiment[
        LeastChangeConfig,
        LeastChangeCell,
        Plan[LeastChangeConfig, LeastChangeCell],
        LeastChangeRecord,
    ]
):
    """Below which L2 no change leaves the threshold of pdq or phash, and how near attacks come."""

    name, config, record, code = "least-change", LeastChangeConfig, LeastChangeRecord, CODE
    alone = True

    def plan(self, config: LeastChangeConfig) -> Plan[LeastChangeConfig, LeastChangeCell]:
        config = config.model_copy(update={"dataset": by_identity(config.dataset)})
        known = PlannedVictim.of(config.turned_into(TrainConfig))
        threshold = _threshold(config, known.victim, known.name)
        drawn = choose_queries(
            known.data.database, config.queries, derive_seed(config.seed, "queries")
        )
        resolved = known.written(config).model_copy(
            update={
                "threshold": threshold,
                "queries": queries_asked(config, len(known.data.database)),
            }
        )
        shared = {
            "victim": known.identity,
            "threshold": threshold,
            "code": code_version(*CODE),
        }
        cells = []
        for start in range(0, len(drawn), BLOCK):
            rows = tuple(drawn[start : start + BLOCK].tolist())
            key = content_key({**shared, "rows": rows})
            cells.append(LeastChangeCell(resolved, rows, key, ("least change", *known.names)))
        return Plan(
            config=resolved,
            cells=cells,
            parts={"victim": known},
            label=f"{known.called}-least-change".replace(":", "."),
            shown={
                "victim": {"name": known.name, "settings": known.settings},
                "dataset": {**known.data.named, "database": len(known.data.database)},
                "threshold": threshold,
                "queries": len(drawn),
            },
        )

    def compute(self, cell: LeastChangeCell, place: Place) -> Result:
        return cell.compute(place)

    def judge(
        self,
        plan: Plan[LeastChangeConfig, LeastChangeCell],
        results: Sequence[Result],
        place: Place,
    ) -> LeastChangeRecord:
        config, trained = plan.config, place.part("victim")
        names = trained.data.database.names
        rows = [
            {"picture": names[row["row"]] if names else str(row["row"]), **row}
            for result in results
            for row in result.document["rows"]
        ]
        head = file_document(LEAST_CHANGE, self.name, config, trained, place)
        seed = derive_seed(config.seed, "bootstrap")
        figures = least_change_figures(rows, trained.victim.bits, seed)
        return LeastChangeRecord.from_document(
            {
                **head,
                "bits": trained.victim.bits,
                "threshold": config.threshold,
                "pictures": rows,
                **figures,
                "shown_changes": _shown(rows, results, place),
                "flags": [
                    *(
                        vars(flag)
                        for flag in (
                            *check_count(config.queries, len(rows), things="pictures"),
                            *check_pictures(
                                trained.data.pictures, largest=READ_SIZES[1], any_size=True
                            ),
                        )
                    ),
                    *figures["flags"],
                ],
                "environment": environment(),
            }
        )


def _shown(
    rows: Sequence[dict[str, Any]], results: Sequence[Result], place: Place
) -> list[dict[str, Any]]:
    """The least and the greatest stored change of all, written into the folder; [] without one."""
    if place.alone:
        return []
    names = {row["row"]: row["picture"] for row in rows}
    kept = [
        ({**shown, "name": names[int(row)]}, result.tensors[f"shown {row}"])
        for result in results
        for row, shown in result.document["shown"].items()
    ]
    kept.sort(key=lambda each: each[0]["l2"])
    return [
        {**shown, "files": write_change(place.folder, str(number), images)}
        for number, (shown, images) in enumerate([*kept[:1], *kept[1:][-1:]])
    ]


def _threshold(config: LeastChangeConfig, victim: HashVictim, name: str) -> int:
    """The threshold in use. Raises UsageError: no hash with an exact answer, or none to leave."""
    if not isinstance(victim, PDQ | PHash):
        raise UsageError(
            f"the exact answer: expected pdq or phash, whose bits lie above a median of linear "
            f"values, got {name}; --sigma 0.25 certifies its smoothed twin"
        )
    if victim.bits % 2:
        raise UsageError(
            f"the exact answer: expected an even number of bits, half of them 1, got {victim.bits}"
        )
    threshold = pdq_threshold(victim.bits) if config.threshold is None else config.threshold
    if threshold >= victim.bits:
        raise UsageError(
            f"--threshold: expected at most {victim.bits - 1} bits, since no two codes of {name} "
            f"are more than {victim.bits} apart, got {threshold}"
        )
    return threshold


def least_change_figures(rows: Sequence[dict[str, Any]], bits: int, seed: int) -> dict[str, Any]:
    """Medians over pictures, shares at levels, and flags.

    least_change_…: bound, real, attack and stored in grey levels; …_over_bound: their ratios to a
    bound that is not 0, as it is where values tie within the rounding of their own computation
    at each level: `holds_unrounded`, `holds_as_run`: no smaller change leaves the threshold, by the
    bound of the map and of the hash as it runs; `leaves_stored`: a stored picture so near was seen
    """
    stated = [row for row in rows if row["half"]]
    sizes = {
        name: np.array([np.inf if row[name] is None else row[name] for row in stated], np.float64)
        for name in SIZES
    }
    figures = {f"least_change_{name}": values for name, values in sizes.items()}
    positive = np.where(sizes["bound"] > 0, sizes["bound"], np.nan)
    figures |= {
        f"{name}_over_bound": sizes[name] / positive for name in ("real", "attack", "stored")
    }
    levels = [
        {
            "level": level,
            "metrics": {
                "holds_unrounded": vars(rate_metric(sizes["bound"] >= level, seed)),
                "holds_as_run": vars(rate_metric(sizes["real"] >= level, seed)),
                "leaves_stored": vars(rate_metric(sizes["stored"] <= level, seed)),
            },
        }
        for level in LEVELS
    ]
    return {
        "stated": len(stated),
        "metrics": {name: vars(median_metric(values)) for name, values in figures.items()},
        "spread": {name: _spread(values) for name, values in figures.items()},
        "levels": levels,
        "flags": [vars(flag) for flag in _flags(sizes, len(rows) - len(stated), bits)],
    }


def _spread(values: Floats) -> dict[str, float | None]:
    """The extremes, and what 5 % lie below and above; None where it is infinite.

    values: NaN marks a picture that is left out
    """
    names, values = ("least", "low", "high", "most"), values[~np.isnan(values)]
    if not len(values):
        return dict.fromkeys(names)
    quantiles = np.quantile(values, (0, 0.05, 0.95, 1), method="inverted_cdf")
    return {
        name: float(quantile) if np.isfinite(quantile) else None
        for name, quantile in zip(names, quantiles, strict=True)
    }


def _flags(sizes: dict[str, Floats], tied: int, bits: int) -> list[Flag]:
    flags = []
    bound, real, attack, stored = (sizes[name] for name in SIZES)
    broken = int(((attack < bound * (1 - 1e-9)) | (stored < real)).sum())
    if broken:
        flags.append(
            Flag(
                "bound_broken",
                "error",
                f"{counted(broken, 'picture')} left the threshold by less than what is proven to "
                "be needed: this is a bug of advhash, please report it.",
            )
        )
    below = int(((real <= stored) & (stored < bound)).sum())
    if below:
        flags.append(
            Flag(
                "below_unrounded",
                "info",
                f"Nearer than the bound of the map without roundings: "
                f"{counted(below, 'stored picture')}. Roundings inside the hash helped. The bound "
                "of the hash as it runs holds.",
            )
        )
    vacuous = int((real == 0).sum())
    if vacuous:
        flags.append(
            Flag(
                "vacuous_bound",
                "info",
                f"The hash as it runs rounds by more than can be allowed for: of {vacuous} of "
                f"{len(real)} pictures nothing is proven but for the map without roundings.",
            )
        )
    if tied:
        flags.append(
            Flag(
                "tied_values",
                "warning",
                f"Not {bits // 2} of {bits} bits are 1 in {counted(tied, 'picture')}, since values "
                "tie (flat pictures, drawings): nothing is stated for these, and no figure has "
                "them.",
            )
        )
    unseen = int(np.isinf(stored).sum())
    if unseen:
        flags.append(
            Flag(
                "not_left",
                "info",
                f"No stored picture was seen to leave the threshold from "
                f"{counted(unseen, 'picture')}.",
            )
        )
    return flags
