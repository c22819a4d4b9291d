"""What figures are called: one entry a figure, for terminal, page, notebook, files and documents.

It stands beside the pages, as words are in no cache key: a label that changes throws nothing away.

An entry may stand for a family: a word in capitals in its name is one of PLACES, and its label
repeats it. `tmap_own:METHOD` names the method that was run.

>>> figure("tmap").label, figure("psnr").heading, figure("map_image_text").label
('t-MAP', 'PSNR (dB)', 'MAP, image against text')
>>> figure("tmap_own:dhta").label
't-MAP on its own victim: dhta'
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

Unit = Literal[
    "share",
    "points",
    "ratio",
    "bits",
    "dB",
    "s",
    "steps",
    "pixels",
    "grey levels rms",
    "count",
    "plain",
]
Serves = Literal["attacker", "defender", "search", "neither"]
GREY_RMS: Unit = "grey levels rms"  # of an L2: the root of the mean square over colour values
HEADED: tuple[Unit, ...] = ("dB", "s", "bits", GREY_RMS)  # that the heading of a figure says
PLACES = {  # word in a name → what it can be
    "QUERY": r"[a-z]+\d*",
    "DATABASE": r"[a-z]+\d*",
    "CONVENTION": "prosgan|deephash|dhta",
    "WORLD": "codes|embeddings|undefended|final_code|transcript|transcript_codes",
    "REGIME": "under|sufficient|critical",
    "FACTOR": "width|epochs|sample|weight_decay|noise",
    "ARM": "uncached|structure|random|hill_climbing",
    "METHOD": ".+",
}
WORDS = re.compile("|".join(PLACES))


@dataclass(frozen=True)
class Figure:
    """A figure: its name in JSON and Parquet, and what a reader is told.

    unit:   share: a part of 1, pages show percent; points: a difference of shares; pixels: input
            units, of pixels in [0, 1]; steps: the same of a single pixel, shown in 255ths; grey
            levels rms: the root of the mean square over colour values
    serves: whom a higher value serves
    """

    name: str
    label: str
    unit: Unit
    serves: Serves
    sentence: str

    @property
    def heading(self) -> str:
        """The label, with the unit where the figure is in one of its own."""
        return f"{self.label} ({self.unit})" if self.unit in HEADED else self.label


READINGS: tuple[tuple[str, str, Serves, str], ...] = (  # of a picture, at a threshold
    ("_clean", ", clean", "neither", ", unattacked"),
    ("", "", "attacker", ""),
    ("_png", ", PNG", "attacker", ", saved and read again as PNG"),
    ("_jpeg90", ", JPEG 90", "attacker", ", after Pillow’s JPEG of quality 90"),
    ("_jpeg75", ", JPEG 75", "attacker", ", after Pillow’s JPEG of quality 75"),
    ("_clean_pdq", ", clean, 31 of 256 bits", "neither",
     ", unattacked, at the threshold that PDQ recommends"),
    ("_pdq", ", 31 of 256 bits", "attacker",
     ", at the threshold that PDQ recommends"),
)  # fmt: skip
FIGURES: dict[str, tuple[Figure, ...]] = {  # in the order of docs/metrics.md, by what they are of
    "Retrieval": (
        Figure("map", "MAP clean", "share", "defender",
               "Mean average precision of the unattacked queries over the full ranking; relevant "
               "is what shares at least one label with the query."),
        Figure("map_chance", "MAP chance", "share", "neither",
               "MAP of a random order, computed exactly: (H_N + (R−1)/(N−1)·(N−H_N))/N for R "
               "relevant of N rows; not R/N."),
        Figure("map_adversarial", "MAP attacked", "share", "defender",
               "MAP of the attacked queries with their own labels."),
        Figure("tmap", "t-MAP", "share", "attacker",
               "MAP of the attacked queries with the labels of their target."),
        Figure("tmap_chance", "t-MAP chance", "share", "neither", "t-MAP of a random order."),
        Figure("tmap_clean", "t-MAP clean", "share", "neither",
               "The same queries, unattacked, scored with the same targets: the floor, which an "
               "attack must beat, not zero."),
        Figure("tmap_ceiling", "t-MAP ceiling", "share", "neither",
               "For each target the best average precision of any registered anchor code (one "
               "code, majority of 9, majority of all, what tells the target's codes from others', "
               "PrototypeNet): one value per victim and target, shared by all methods."),
        Figure("tmap_normalised", "t-MAP normalised", "share", "attacker",
               "(t-MAP − clean) / (ceiling − clean), the part of the possible way that the attack "
               "covered: a ratio of means, resampled jointly; null where the denominator is not "
               "positive, below 0 where it is worse than doing nothing, and, as no anchor is "
               "proven the best, maybe above 1."),
        Figure("map_adversarial_jpeg75", "MAP attacked, after JPEG 75", "share", "defender",
               "MAP of the attacked pictures after Pillow’s JPEG of quality 75."),
        Figure("map_adversarial_jpeg90", "MAP attacked, after JPEG 90", "share", "defender",
               "MAP of the attacked pictures after Pillow’s JPEG of quality 90."),
        Figure("tmap_jpeg75", "t-MAP after JPEG 75", "share", "attacker",
               "t-MAP of the attacked pictures after Pillow’s JPEG of quality 75."),
        Figure("tmap_jpeg90", "t-MAP after JPEG 90", "share", "attacker",
               "t-MAP of the attacked pictures after Pillow’s JPEG of quality 90."),
        Figure("map_adversarial_survived", "MAP attacked, as it arrives", "share", "defender",
               "MAP of the attacked pictures after what the attack was made to survive "
               "(`survive`), the mean over its channels."),
        Figure("tmap_survived", "t-MAP as it arrives", "share", "attacker",
               "t-MAP of the attacked pictures after what the attack was made to survive "
               "(`survive`), the mean over its channels."),
        Figure("tmap_normalised_jpeg75", "normalised, after JPEG 75", "share", "attacker",
               "t-MAP normalised of the attacked pictures after Pillow’s JPEG of quality 75; floor "
               "and ceiling are those without a file."),
        Figure("tmap_normalised_jpeg90", "normalised, after JPEG 90", "share", "attacker",
               "t-MAP normalised of the attacked pictures after Pillow’s JPEG of quality 90; floor "
               "and ceiling are those without a file."),
        Figure("tmap_normalised_survived", "normalised, as it arrives", "share", "attacker",
               "t-MAP normalised after what the attack was made to survive; floor and ceiling are "
               "those of pictures as they are."),
        Figure("map_optimistic", "MAP, ties optimistic", "share", "neither",
               "MAP where relevant rows stand first among equal distances: an upper bound."),
        Figure("map_pessimistic", "MAP, ties pessimistic", "share", "neither",
               "MAP where relevant rows stand last among equal distances: a lower bound."),
        Figure("tmap_optimistic", "t-MAP, ties optimistic", "share", "neither",
               "t-MAP where relevant rows stand first among equal distances."),
        Figure("tmap_pessimistic", "t-MAP, ties pessimistic", "share", "neither",
               "t-MAP where relevant rows stand last among equal distances."),
        Figure("map_CONVENTION", "MAP as CONVENTION counts", "share", "defender",
               "MAP as published code computes it; see “Published conventions”."),
        Figure("precision_within_2", "precision within 2 bits", "share", "defender",
               "Precision of hash lookup: 0 where nothing lies within the radius."),
        Figure("ndcg", "NDCG", "share", "defender",
               "Normalised discounted cumulative gain, 1 for a relevant row, or its grade."),
        Figure("ndcg_at_10", "NDCG at 10", "share", "defender",
               "NDCG of the first 10 rows; the gain is the grade that judgements give, else 1 for "
               "a relevant row; null where nothing says what is relevant."),
        Figure("recall_at_10", "recall at 10", "share", "defender",
               "Share of the relevant rows that stand among the first 10; of embeddings without "
               "labels or judgements, of the 10 nearest by their floats."),
        Figure("recall_at_10_ceiling", "recall at 10, at most", "share", "neither",
               "The most that recall at 10 can be where queries have more than 10 relevant rows; "
               "null where none has."),
        Figure("precision_at_k", "precision at k", "share", "defender",
               "Share of relevant rows among the first k (`--top-k`)."),
        Figure("recall_at_k", "recall at k", "share", "defender",
               "Share of the relevant rows that stand among the first k (`--top-k`)."),
        Figure("recall_at_k_ceiling", "recall at k, at most", "share", "neither",
               "The most that recall at k can be where queries have more than k relevant rows; "
               "null where none has."),
        Figure("served_precision_at_10", "precision at 10, served", "share", "defender",
               "Share of relevant rows among the first 10 results of the store (`--store`), after "
               "rescoring; places that it leaves empty count as irrelevant."),
        Figure("served_precision_at_10_adversarial", "precision at 10, served, attacked", "share",
               "defender",
               "Share of rows with a label of the query among the first 10 results of the store "
               "for the attacked query."),
        Figure("served_tprecision_at_10", "t-P at 10, served", "share", "attacker",
               "Share of rows with a label of the target among the first 10 results of the store "
               "for the attacked query."),
        Figure("served_tprecision_at_10_clean", "t-P at 10, served, clean", "share", "neither",
               "The same of the unattacked query."),
        Figure("store_recall_at_10_adversarial", "recall of the store, attacked", "share",
               "defender",
               "What the store finds of the exact first 10 results for the attacked query."),
        Figure("served_recall_at_10", "recall at 10, served", "share", "defender",
               "Share of the relevant rows among the first 10 results of the store, after "
               "rescoring; of embeddings without labels or judgements, of the 10 nearest."),
        Figure("store_recall_at_10", "recall of the store", "share", "defender",
               "Share of the first 10 results of the store, before any rescoring, that are as near "
               "as the tenth of an exact search: 1 for exact stores."),
        Figure("average_precision", "average precision", "share", "defender",
               "Average precision of a detector: abnormal inputs among all, by their scores."),
    ),
    "What was changed, and what it cost": (
        Figure("linf", "L∞", "steps", "neither",
               "Largest change of any value of an attacked query, after projection and rounding; "
               "pages show pixels in steps of 1/255."),
        Figure("l2", "L2", "pixels", "neither",
               "Root of the sum of squares of the change, after projection and rounding."),
        Figure("rmse", "RMSE", "pixels", "neither",
               "Root of the mean square of the change, after projection and rounding."),
        Figure("psnr", "PSNR", "dB", "attacker",
               "Peak signal-to-noise ratio: above 40 dB a change is hard to see; images that did "
               "not move are left out."),
        Figure("ssim", "SSIM", "plain", "attacker",
               "Structural similarity of the attacked picture to the clean one: 1 for equal ones."),
        Figure("overrun", "overrun", "steps", "neither",
               "How far the method went beyond the budget, in its norm, before the projection: "
               "above 0, the figures measure the projected method, not the method as published."),
        Figure("words_changed", "words changed", "count", "neither",
               "How many words of an attacked text differ."),
        Figure("bits_changed", "bits changed", "bits", "attacker",
               "Hamming distance of the attacked code to the clean one."),
        Figure("queries_per_image", "queries per image", "count", "neither",
               "How many pictures a black-box attack sent, for each that it moved."),
        Figure("seconds_fit", "fit", "s", "neither",
               "Wall seconds of fitting the attack, as measured when it was fitted, if cached."),
        Figure("seconds_per_image", "per query", "s", "neither",
               "Wall seconds of attacking one query."),
    ),
    "Planted items": (
        Figure("planted_top10", "planted in the first 10", "share", "attacker",
               "Share of unseen queries with a planted item among their first 10 results, as the "
               "store serves them."),
        Figure("planted_top1", "planted first", "share", "attacker",
               "Share of unseen queries whose first result is a planted item."),
        Figure("planted_top5", "planted in the first 5", "share", "attacker",
               "Share of unseen queries with a planted item among their first 5 results."),
        Figure("planted_top10_random", "random documents in the first 10", "share", "neither",
               "The same of as many random documents, in the store without the items."),
        Figure("planted_top10_natural", "natural hubs in the first 10", "share", "neither",
               "The same of as many clean documents, those that known queries find most often, in "
               "the store without the items."),
        Figure("planted_top10_over_random", "planted above random documents", "points",
               "attacker", "What planted items are found above random ones, paired by query."),
        Figure("planted_top10_over_natural", "planted above natural hubs", "points", "attacker",
               "What planted items are found above natural hubs, paired by query."),
        Figure("planted_reciprocal_rank", "reciprocal rank of a planted item", "share",
               "attacker", "One over the rank of the first planted item; 0 beyond the first 10."),
        Figure("own_recall10_before", "own answers at 10, before", "share", "neither",
               "Recall at 10 of a query’s own answers in the store as it was: those of its number, "
               "or the 10 nearest by their floats."),
        Figure("own_recall10_after", "own answers at 10, after", "share", "defender",
               "The same with the planted items in the store."),
        Figure("own_recall10_lost", "own answers lost", "points", "attacker",
               "What the items take of it, paired by query: without them minus after. Under a cap "
               "both are of the documents that it shows."),
        Figure("own_recall10_defended", "own answers at 10, defended", "share", "defender",
               "Recall before any attack where documents too go through gate, cap and collapse."),
        Figure("own_recall10_cost", "cost to own answers", "points", "attacker",
               "Before minus defended, paired by query: what the defences cost honest items."),
        Figure("poison_hit10", "planted hit", "share", "attacker",
               "Share of clean queries that find, among their first 10 results, a planted picture "
               "that was moved toward one of their labels and truly has none of them."),
        Figure("poison_hit10_clean", "planted hit, unmoved", "share", "neither",
               "The same of the same pictures before they were moved."),
        Figure("poison_hit10_gain", "planted hit, gain", "points", "attacker",
               "What the move adds, paired over queries."),
        Figure("poison_hit10_chance", "planted hit, chance", "share", "neither",
               "The same of a random order."),
    ),
    "At a threshold on the distance": (
        Figure("threshold_bits", "threshold", "bits", "neither",
               "The largest Hamming distance at which the stated share of unrelated pairs is "
               "mistaken for one picture at most."),
        Figure("false_positives", "false positives", "share", "neither",
               "Share of unrelated pairs with a clean query that lie within the threshold."),
        Figure("false_positives_held_out", "false positives on held-out pictures", "share",
               "neither",
               "Share of unrelated pairs of the pictures on which the threshold was set that lie "
               "within it."),
        *(
            Figure(f"{name}{end}", f"{label}{what}", "share", serves, f"{sentence}{of}.")
            for name, label, sentence in (
                ("collision_rate", "collide",
                 "Share of queries within the threshold of the target picture"),
                ("evasion_rate", "evade",
                 "Share of queries with more bits than the threshold to their own picture"),
            )
            for end, what, serves, of in READINGS
        ),
        Figure("bits_clean", "distance, clean", "bits", "neither",
               "Hamming distance of the unattacked query to the picture that counts."),
        Figure("bits_own", "distance to the own picture", "bits", "neither",
               "Hamming distance of the attacked query, which aims at another picture, to its own "
               "one."),
        Figure("bits_adversarial", "distance, attacked", "bits", "neither",
               "Hamming distance of the attacked query to the picture that counts."),
    ),
    "Victims": (
        Figure("map_QUERY_DATABASE", "MAP, QUERY against DATABASE", "share", "defender",
               "MAP of the query split before any attack, by the modality of the query and by "
               "what the database holds."),
        Figure("map_QUERY_DATABASE_untrained", "MAP, QUERY against DATABASE, untrained rows",
               "share", "defender", "The same on rows that the victim never trained on."),
        Figure("accuracy", "accuracy", "share", "defender",
               "Share of clean queries that the victim classifies rightly."),
        Figure("joint_accuracy", "joint accuracy", "share", "defender",
               "Share of queries that the parties of a federation classify rightly together."),
        Figure("joint_accuracy_adversarial", "joint accuracy, attacked", "share", "defender",
               "The same where one party’s slice was attacked."),
        Figure("joint_success", "joint success", "share", "attacker",
               "Share of queries whose joint class became the target, untargeted: another one."),
        Figure("rows", "database rows", "count", "neither", "Codes that the others are of."),
        Figure("distinct", "distinct codes", "count", "neither", "How many of them differ."),
        Figure("balance", "bit balance", "plain", "neither",
               "How even bits are: twice the share of the rarer value, mean over bits; 1 at most."),
        Figure("entropy", "bit entropy", "plain", "neither",
               "Entropy of a bit, mean over bits: 1 at most."),
        Figure("seconds_training", "training", "s", "neither", "Wall seconds of training."),
    ),
    "Transfer": (
        Figure("tmap_own:METHOD", "t-MAP on its own victim: METHOD", "share", "attacker",
               "t-MAP on the victim that the queries were moved for, mean over victims."),
        Figure("tmap_transferred:METHOD", "t-MAP on other victims: METHOD", "share", "attacker",
               "t-MAP on victims that the queries were not moved for, mean over pairs."),
        Figure("map_adversarial_own:METHOD", "MAP attacked on its own victim: METHOD", "share",
               "defender",
               "MAP attacked on the victim that the queries were moved for, mean over victims."),
        Figure("map_adversarial_transferred:METHOD", "MAP attacked on other victims: METHOD",
               "share", "defender",
               "MAP attacked on victims that the queries were not moved for, mean over pairs."),
        Figure("gain", "gain", "points", "attacker",
               "t-MAP − t-MAP of clean queries, untargeted: MAP lost; paired over queries."),
        Figure("over_noise", "gain over noise", "points", "attacker",
               "The same against uniform noise under the same budget."),
        Figure("over_single", "gain over the best member", "points", "attacker",
               "Made for an ensemble, against its best member alone, chosen on other queries."),
    ),
    "Defences": (
        Figure("map_clean", "MAP clean", "share", "defender",
               "MAP of unattacked queries of the defended victim, or of the smoothed hash."),
        Figure("map_clean_undefended", "MAP clean, undefended", "share", "defender",
               "The same of the victim without the defence."),
        Figure("map_robust", "MAP robust", "share", "defender",
               "MAP under the worst case of an attacker who knows the defence."),
        Figure("map_robust_undefended", "MAP robust, undefended", "share", "defender",
               "The same of the victim without the defence."),
        Figure("tmap_clean_undefended", "t-MAP clean, undefended", "share", "neither",
               "t-MAP of unattacked queries of the victim without the defence."),
        Figure("tmap_robust", "t-MAP robust", "share", "attacker",
               "t-MAP under the worst case of an attacker who knows the defence."),
        Figure("tmap_robust_undefended", "t-MAP robust, undefended", "share", "attacker",
               "The same of the victim without the defence."),
        Figure("map_nonadaptive", "MAP, not adaptive", "share", "defender",
               "MAP of pictures made for the undefended victim, shown only to be compared."),
        Figure("tmap_nonadaptive", "t-MAP, not adaptive", "share", "attacker",
               "t-MAP of pictures made for the undefended victim, shown only to be compared."),
        Figure("map_kept", "MAP kept", "share", "defender",
               "MAP clean, defended by undefended: a ratio of means."),
        Figure("map_drop_ratio", "drop of MAP / undefended", "share", "attacker",
               "How far MAP falls under attack, defended by undefended."),
        Figure("tmap_gain_ratio", "gain of t-MAP / undefended", "share", "attacker",
               "How far t-MAP rises under attack, defended by undefended."),
        Figure("map_robust_rehashed", "MAP robust, rehashed", "share", "defender",
               "MAP robust against a database that the defended victim hashed anew."),
        Figure("tmap_robust_rehashed", "t-MAP robust, rehashed", "share", "attacker",
               "t-MAP robust against a database that the defended victim hashed anew."),
    ),
    "Detectors": (
        Figure("accepted_adaptive", "adaptive success accepted", "share", "attacker",
               "An attacker who knows the detector gets past it with success: the code is where "
               "the attacker wants it, and is accepted."),
        Figure("success_and_accepted", "success accepted", "share", "attacker",
               "The attack, which does not know the detector, succeeds and is accepted."),
        Figure("success_and_accepted_clean", "success accepted, clean", "share", "neither",
               "The same of unattacked queries."),
        Figure("accepted_replay", "swapped rows accepted", "share", "attacker",
               "An attacker who swaps rows of the database in gets past with success."),
        Figure("accepted_clean_errors", "clean errors accepted", "share", "neither",
               "Share of clean queries that are wrong and accepted."),
        Figure("accepted_any_code", "any code accepted", "share", "attacker",
               "Share of queries for which some code is wrong and accepted."),
        Figure("success", "success", "share", "attacker",
               "The attack succeeds, accepted or not."),
        Figure("success_adaptive", "adaptive success", "share", "attacker",
               "An attacker who knows the detector succeeds, accepted or not."),
        Figure("wrong_adaptive", "adaptive errors", "share", "attacker",
               "An attacker who knows the detector makes the class wrong, accepted or not."),
        Figure("auroc", "AUROC", "share", "defender",
               "Area under the ROC curve of abnormal against clean inputs; 0.5 is chance."),
        Figure("auroc_noise", "AUROC against noise", "share", "defender",
               "Area under the ROC curve of abnormal inputs against noise of the same L2."),
        Figure("false_alarms", "false alarms", "share", "attacker",
               "Share of clean queries that the deployed rule flags; its threshold was set on "
               "other clean rows."),
        Figure("detected", "detected", "share", "defender",
               "Share of abnormal inputs that the deployed rule flags."),
        Figure("detected_randomised", "detected at exactly 5 %, randomised", "share", "defender",
               "Share of abnormal inputs flagged by a rule that draws lots among equal scores, so "
               "that exactly 5 % of these clean queries are flagged."),
        Figure("false_alarms_held_out", "false alarms on held-out rows", "share", "neither",
               "Share of the clean validation rows, on which the threshold was set, that the "
               "deployed rule flags."),
        Figure("strict_false_alarms", "false alarms, strict", "share", "attacker",
               "Share of clean queries that the strict rule flags: its threshold lets at most 1 % "
               "of the held-out rows be flagged."),
        Figure("strict_detected", "detected, strict", "share", "defender",
               "Share of abnormal inputs that the strict rule flags."),
        Figure("strict_detected_randomised", "detected at exactly 1 %, randomised", "share",
               "defender",
               "Share of abnormal inputs flagged where exactly 1 % of these clean queries are, by "
               "lots among equal scores."),
        Figure("strict_false_alarms_held_out", "false alarms on held-out rows, strict", "share",
               "neither",
               "Share of the clean validation rows that the strict rule flags."),
        Figure("flagged_noise", "noise flagged", "share", "neither",
               "Share of queries under noise of the same L2 that are flagged."),
        Figure("accuracy_abnormal", "accuracy, abnormal", "share", "defender",
               "Share of abnormal inputs that the victim classifies rightly."),
        Figure("epsilon_message", "ε of a message", "plain", "attacker",
               "What the Laplace noise of one code composes to, by basic composition over bits."),
        Figure("epsilon_training", "ε of the training", "plain", "attacker",
               "What the Laplace noise composes to over all rounds of training."),
        Figure("threshold", "threshold of the score", "plain", "neither",
               "What scores above it is flagged."),
    ),
    "Certificates": (
        Figure("map_clean_unsmoothed", "MAP clean, unsmoothed", "share", "defender",
               "MAP of the same victim without smoothing."),
        Figure("precision_clean", "precision within the radius", "share", "defender",
               "Share of relevant rows among those within the Hamming radius, without an attack."),
        Figure("recall_clean", "relevant rows within", "share", "defender",
               "Share of the relevant rows within the Hamming radius, without an attack."),
        Figure("irrelevant_clean", "other rows within", "share", "neither",
               "Share of the other rows within the Hamming radius: where it is as high, a "
               "certificate says nothing."),
        Figure("bits_abstained", "bits abstained", "bits", "attacker",
               "Bits of a code of which the votes do not tell the value."),
        Figure("bits_certified", "bits that hold", "bits", "defender",
               "Bits of a code that no attack within the L2 radius takes."),
        Figure("flips_bound", "bits that may flip, at most", "bits", "attacker",
               "Bound on the bits that an attack within the L2 radius flips."),
        Figure("recall_certified", "relevant rows that stay", "share", "defender",
               "Share of the relevant rows that stay within the Hamming radius, whatever an "
               "attack does."),
        Figure("irrelevant_certified", "other rows that stay", "share", "neither",
               "Share of the other rows that stay there too."),
        Figure("bits_served", "bits that hold, served", "bits", "defender",
               "Bits that hold of a vote over draws that are new at each request."),
        Figure("recall_served", "relevant rows that stay, served", "share", "defender",
               "Relevant rows that stay by a vote over draws that are new at each request."),
        Figure("least_change_bound", "least change, bound", GREY_RMS, "defender",
               "Proven for the map of a perceptual hash without its roundings: no smaller change "
               "leaves the threshold. In grey levels, the root of the mean square over colour "
               "values; the median over pictures."),
        Figure("least_change_real", "least change, bound as it runs", GREY_RMS, "defender",
               "The same proven for the hash with its roundings; 0: nothing is."),
        Figure("least_change_attack", "least change, reached", GREY_RMS, "defender",
               "A change that leaves the threshold of the map without roundings, in fractions of "
               "grey levels."),
        Figure("least_change_stored", "least change, 8 bits", GREY_RMS, "defender",
               "The change to the nearest picture of whole grey levels that was seen to leave the "
               "threshold of the hash as it runs."),
        Figure("real_over_bound", "bound as it runs / bound", "ratio", "neither",
               "What the allowance for roundings leaves of the bound; the median over pictures."),
        Figure("attack_over_bound", "reached / bound", "ratio", "neither",
               "How far the change that was reached lies above the bound; the median over "
               "pictures."),
        Figure("stored_over_bound", "8 bits / bound", "ratio", "neither",
               "How far the change to the stored picture lies above the bound; the median over "
               "pictures."),
        Figure("holds_unrounded", "hold, without roundings", "share", "defender",
               "Share of pictures whose bound is at least a size: no smaller change suffices."),
        Figure("holds_as_run", "hold, as the hash runs", "share", "defender",
               "Share of pictures whose bound of the hash with its roundings is at least a size."),
        Figure("leaves_stored", "leave, 8 bits", "share", "attacker",
               "Share of pictures with a stored picture within a size that was seen to leave the "
               "threshold."),
    ),
    "Reconstructions": (
        Figure("accuracy_undefended", "accuracy, undefended", "share", "defender",
               "Share of queries that the twin without codes classifies rightly."),
        Figure("accuracy_loss", "accuracy, embeddings less codes", "points", "attacker",
               "What sending codes costs against real embeddings, paired; below 0, codes gain."),
        Figure("ssim_WORLD", "SSIM, WORLD", "plain", "attacker",
               "Structural similarity of reconstructions to what was sent, of the attacker that "
               "validation data chose."),
        Figure("mse_WORLD", "MSE, WORLD", "plain", "defender",
               "Mean square error of reconstructions, of the attacker that validation data chose."),
        Figure("ssim_class_mean", "SSIM, class mean", "plain", "neither",
               "The mean picture of the true class: what one can draw who knows the class and "
               "nothing else."),
        Figure("mse_class_mean", "MSE, class mean", "plain", "neither",
               "Mean square error of the mean picture of the true class."),
        Figure("mse", "MSE", "plain", "defender", "Mean square error of reconstructions."),
        Figure("ssim_transcript_class_mean", "SSIM, class mean of training rows", "plain",
               "neither", "The mean picture of the class of those training rows."),
        Figure("mse_transcript_class_mean", "MSE, class mean of training rows", "plain",
               "neither", "Mean square error of the mean picture of the class of those rows."),
        Figure("ssim_class_decoder", "SSIM, decoder told the class", "plain", "neither",
               "A decoder that is told the class alone, trained on the mean square error."),
        Figure("ssim_class_decoder_ssim", "SSIM, decoder told the class, trained on SSIM",
               "plain", "neither", "A decoder that is told the class alone, trained on SSIM."),
        Figure("reidentification", "re-identified, favoured way", "share", "attacker",
               "How often the true input is picked among candidates of its class, by comparing "
               "codes or by the reconstruction, whichever validation rows favour."),
        Figure("reidentification_WORLD", "re-identified, WORLD", "share", "attacker",
               "How often the true input is picked among candidates by that reconstruction."),
        Figure("reidentification_chance", "re-identified, chance", "share", "neither",
               "The same by chance; fewer candidates where a class has fewer queries."),
        Figure("reidentification_by_picture", "re-identified by reconstruction", "share",
               "attacker", "The same by the candidate nearest to the reconstruction."),
        Figure("reidentification_by_code", "re-identified by codes", "share", "attacker",
               "The same by comparing codes instead of pictures."),
        Figure("reidentification_over_chance", "re-identified over chance", "points", "attacker",
               "Re-identified − chance, paired over samples."),
        Figure("reidentification_WORLD_over_chance", "re-identified over chance, WORLD", "points",
               "attacker", "Re-identified by that reconstruction − chance, paired over samples."),
        Figure("gain_WORLD", "gain over class mean, WORLD", "plain", "attacker",
               "SSIM − SSIM of the class mean, paired; of tables how far MSE is below it."),
        Figure("gain_codes_over_class_decoder", "gain over a decoder told the class", "plain",
               "attacker", "SSIM from codes − SSIM of a decoder told the class, trained alike."),
        Figure("gain_over_class_mean", "gain over class mean", "plain", "attacker",
               "The same of one attacker, against the class mean of its own samples."),
        Figure("gain_decoder_ssim", "gain over class mean, decoder trained on SSIM", "plain",
               "attacker", "SSIM gained by a decoder trained on SSIM itself, from codes."),
        Figure("gain_class_decoder_ssim", "gain over class mean, the same told the class",
               "plain", "neither", "SSIM gained by such a decoder that is told the class alone."),
        Figure("gain_decoder_ssim_over_class_decoder", "gain of the code, trained on SSIM",
               "plain", "attacker", "What the code adds for a decoder trained on SSIM."),
        Figure("label_read", "labels read", "share", "attacker",
               "Share of labels that are read correctly."),
    ),
    "Codes as representations": (
        Figure("redundancy_train", "redundancy, training", "share", "neither",
               "Share of the training pictures that have the code of an earlier one: (n − "
               "distinct codes)/n; it grows with n."),
        Figure("redundancy_train_equal", "redundancy, training, as many", "share", "neither",
               "The same of as many training pictures as there are test pictures."),
        Figure("redundancy_test", "redundancy, test", "share", "neither",
               "The same of test pictures."),
        Figure("redundancy_random", "redundancy, noise", "share", "neither",
               "The same of pictures of uniform noise."),
        Figure("redundancy_adversarial", "redundancy, moved", "share", "neither",
               "The same of test pictures that the attack moved."),
        Figure("knn_accuracy", "K-NN", "share", "neither",
               "Accuracy on test pictures by nearest training codes."),
        Figure("logistic_accuracy", "logistic regression", "share", "neither",
               "Accuracy on test pictures by logistic regression on training codes."),
        Figure("kmeans_purity", "K-Means, purity", "share", "neither",
               "Share of test pictures in the most frequent class of their cluster."),
        Figure("kmeans_one_to_one", "K-Means, one to one", "share", "neither",
               "The same where each cluster stands for another class."),
        Figure("kmeans_purity_train", "K-Means, purity, training", "share", "neither",
               "The same of training codes."),
        Figure("kmeans_one_to_one_train", "K-Means, one to one, training", "share", "neither",
               "The same of training codes where each cluster stands for another class."),
        Figure("knn_accuracy_adversarial", "K-NN, moved", "share", "neither",
               "Accuracy on moved test pictures, for their true class."),
        Figure("logistic_accuracy_adversarial", "logistic regression, moved", "share", "neither",
               "Accuracy on moved test pictures, for their true class."),
        Figure("correlation", "mean |r| of bits", "plain", "neither",
               "Mean absolute correlation of two bits."),
        Figure("within", "distance in a class", "plain", "neither",
               "Mean Hamming distance of two training codes of a class, as a share of the bits."),
        Figure("between", "distance between classes", "plain", "neither",
               "Mean Hamming distance of two training codes of different classes."),
        Figure("share_REGIME", "points that are REGIME", "share", "neither",
               "Share of the points of the grid in that regime of expressivity."),
        Figure("tmap_REGIME", "t-MAP where REGIME", "share", "attacker",
               "Mean t-MAP over trainings in that regime."),
        Figure("auroc_REGIME", "AUROC where REGIME", "share", "defender",
               "Mean AUROC of novelty over trainings in that regime."),
        Figure("eta_squared_FACTOR", "η² of FACTOR", "share", "neither",
               "Share of the variance of training redundancy that lies between the levels of the "
               "factor."),
    ),
    "Lifelong learning": (
        Figure("seconds", "seconds", "count", "neither", "Wall seconds of training and hashing."),
        Figure("cpu_seconds", "processor seconds", "count", "neither",
               "Processor seconds of training and hashing."),
        Figure("epochs", "epochs", "count", "neither", "Epochs that were trained."),
        Figure("increment_seconds_ratio", "time of an increment / retraining", "share", "attacker",
               "Wall time of an increment by that of retraining, hashing of new rows included."),
        Figure("increment_cpu_seconds_ratio", "processor time of an increment / retraining",
               "share", "attacker", "The same of processor time."),
        *(
            Figure(f"map_new_gain{end}{view}", f"gain on new queries over {rival}{how}", "share",
                   "defender", f"MAP on queries of new categories, relative to {rival}{of}.")
            for view, how, of in (
                ("", "", ""),
                ("_untrained", ", untrained rows", ", among rows never trained on"),
                ("_hashed", ", all rows hashed", ", with all rows hashed by the networks"),
            )
            for end, rival in (
                ("", "frozen networks"),
                ("_same_time", "retraining in the same time"),
                ("_retrain", "full retraining"),
                ("_dcmh", "DCMH"),
            )
        ),
        Figure("map_new_gain_codes_only", "gain on new queries by assigned codes", "share",
               "defender", "What assigned codes alone add to frozen networks."),
        Figure("map_all_gain_same_time", "gain on all queries over retraining in the same time",
               "share", "defender", "MAP on all queries, relative to retraining in the same time."),
        Figure("map_all_gap", "MAP behind full retraining", "points", "attacker",
               "MAP of full retraining − MAP of the increment, all queries."),
        Figure("map_all_gap_untrained", "MAP behind full retraining, untrained rows", "points",
               "attacker", "The same among rows never trained on."),
        Figure("map_all_gap_hashed", "MAP behind full retraining, all rows hashed", "points",
               "attacker", "The same with all rows hashed by the networks."),
        Figure("forgetting_old", "forgetting", "points", "attacker",
               "Fall of MAP of the queries of phase 1 among its rows, to the last increment."),
        Figure("forgetting_each", "forgetting by one increment", "points", "attacker",
               "Fall by one increment of all queries known before it, among the rows known then."),
        Figure("forgetting_old_in_service", "forgetting in service", "points", "attacker",
               "Fall of MAP of the queries of phase 1 among all rows that are there at the end."),
        Figure("forgetting_old_finetune", "forgetting, fine-tuning", "points", "attacker",
               "Forgetting of naive fine-tuning, from hashed to hashed codes."),
        Figure("forgetting_old_binary", "forgetting, binary similarity", "points", "attacker",
               "Forgetting of the increment with binary similarity."),
        Figure("old_codes_changed", "old codes changed", "share", "attacker",
               "Largest share, over all cells, of rows with a code that has another one later."),
        Figure("old_codes_changed_finetune", "old codes changed, fine-tuning", "share",
               "attacker", "The same of naive fine-tuning."),
        Figure("retrain_seconds_to_reach", "retraining until as good", "s", "defender",
               "When a retraining, scored at ten points, first has the increment’s MAP on all "
               "queries, both on hashed codes."),
        Figure("retrain_reached", "retrainings that get as good", "share", "attacker",
               "Share of the cells in which a retraining ever has the increment’s MAP."),
    ),
    "Searches": (
        Figure("speedup", "speed-up", "ratio", "search",
               "Candidates a second with the functional cache by those without."),
        Figure("speedup_structure", "speed-up of a cache by structure", "ratio", "search",
               "Candidates a second with a cache by structure by those without."),
        Figure("speedup_over_structure", "speed-up over a cache by structure", "ratio", "search",
               "Candidates a second with the functional cache by those with one by structure."),
        Figure("hit_rate", "hit rate", "share", "search",
               "Share of candidates that were not evaluated."),
        Figure("hit_rate_structure", "hit rate, by structure", "share", "search",
               "The same of a cache by structure."),
        Figure("repeat_rate", "repeat rate", "share", "neither",
               "Share of candidates written exactly like an earlier one."),
        Figure("best_fitness", "best fitness", "share", "search",
               "Fitness of the best candidate of a search with the functional cache."),
        Figure("best_fitness_ARM", "best fitness, ARM", "share", "search",
               "The same of that arm."),
        Figure("best_test", "test accuracy of the best", "share", "search",
               "Test accuracy of the best candidate."),
        Figure("best_test_uncached", "test accuracy of the best, uncached", "share", "search",
               "The same of the search without a cache."),
        Figure("best_mean", "quality of the best", "share", "search",
               "Mean accuracy over all trainings of the best candidate."),
        Figure("best_mean_uncached", "quality of the best, uncached", "share", "search",
               "The same of the search without a cache."),
        Figure("best_gain", "gain of the best", "points", "search",
               "Best fitness with − without the functional cache, paired over repeats."),
        Figure("best_gain_over_structure", "gain of the best over structure", "points", "search",
               "Best fitness with the functional cache − with one by structure."),
        Figure("mean_gain", "gain of quality", "points", "search",
               "Quality of the best with − without the functional cache, paired over repeats."),
        Figure("mean_gain_over_structure", "gain of quality over structure", "points", "search",
               "Quality of the best with the functional cache − with one by structure."),
        Figure("time_to_uncached", "time until as good", "ratio", "neither",
               "Time until the search without has been equalled, by its whole time; 1 where "
               "never: less is better."),
        Figure("reached_uncached", "repeats that get as good", "share", "search",
               "Share of repeats that reach the final fitness of the search without."),
        Figure("false_hit_rate", "false hits", "share", "neither",
               "Share of checked hits that were another function: less is better."),
        Figure("hash_overhead", "cost of a hash", "ratio", "neither",
               "Seconds of one hash by those of one evaluation: less is better."),
        Figure("candidates", "candidates", "count", "search", "Candidates of a search."),
        Figure("candidates_uncached", "candidates, uncached", "count", "search",
               "Candidates of the search without a cache."),
        Figure("fitness", "fitness", "share", "search",
               "Normalised t-MAP on validation queries, or validation accuracy of one training."),
        Figure("quality", "quality", "share", "search",
               "Mean accuracy over all trainings of what a search under noise found best."),
        Figure("claimed", "claimed", "share", "neither", "The fitness that the search itself saw."),
    ),
}  # fmt: skip
PLAIN = {entry.name: entry for group in FIGURES.values() for entry in group}


@cache
def _families() -> list[tuple[re.Pattern[str], Figure]]:
    """What names of each family match."""

    def pattern(name: str) -> re.Pattern[str]:
        return re.compile(WORDS.sub(lambda word: f"(?P<{word[0]}>{PLACES[word[0]]})", name))

    return [(pattern(name), entry) for name, entry in PLAIN.items() if WORDS.search(name)]


def known(name: str) -> Figure | None:
    """The entry of a figure, that of its family filled in; None where the table has none."""
    if name in PLAIN:
        return PLAIN[name]
    for pattern, entry in _families():
        match = pattern.fullmatch(name)
        if match is not None:
            label = entry.label
            for word, part in match.groupdict().items():
                label = label.replace(word, part if word == "METHOD" else part.replace("_", " "))
            return replace(entry, name=name, label=label)
    return None


def figure(name: str) -> Figure:
    """The entry of a figure; one that a kind of another package brings is called by its name."""
    return known(name) or Figure(name, name, "plain", "neither", "")


def label_of(name: str) -> str:
    """What a figure is called."""
    return figure(name).label


def as_markdown() -> str:
    """The tables of docs/metrics.md."""
    parts = []
    for heading, group in FIGURES.items():
        rows = []
        for entry in group:
            cells = (f"`{entry.name}`", entry.label, entry.unit, entry.serves, entry.sentence)
            rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        head = "| name | label | unit | higher serves | meaning |"
        parts.append("\n".join([f"### {heading}", "", head, "|---|---|---|---|---|", *rows]))
    return "\n\n".join(parts)
