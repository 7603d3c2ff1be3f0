"""From candidates to a ranking: each is opened and scored, then one is chosen."""

import sys
import time
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from utils.device import choose_device
from utils.errors import InputError
from utils.features import feature_path
from utils.learning_curve import learning_curve
from utils.linear_head import LinearHead
from utils.names import FULL, LINEAR
from utils.near_copies import report_near_copies
from utils.ranking.advice import doubts_line, headline, place_of
from utils.ranking.candidates import Candidate, open_candidate
from utils.ranking.decision import Prediction, decide, more_or_another
from utils.ranking.entries import Comparison, Entry, RankingSettings
from utils.ranking.fine_tuning import measure_full
from utils.ranking.record import Agreements, Ranking, Standing
from utils.ranking.scores import ELSEWHERE, Score, compare, consensus
from utils.ranking.scoring import Scored, consensus_of, score_candidate
from utils.ranking.truth import mean_rank_elsewhere
from utils.storage import environment

EVERYONE, WITHOUT_CONTROLS = "all candidates", "without random controls"


def rank(
    target: str | Sequence[str],
    models: Sequence[str] = (),
    sources: Sequence[str] = (),
    settings: RankingSettings | None = None,
) -> Ranking:
    """Tell which model to take for a target: open every model with every source, score each on training
    images that its linear probe was not fitted to, the same for all, and decide.

    Args:
        target: a data set, folder:PATH, or features:FILE.npz; several of these files, or a pattern of
            them, are the features of one network each.
        models: NAME or NAME@PIXELS, or timm:PATTERN. A LeNet must have been trained on each source.
        sources: data sets whose classes the relation, the certificate, LEEP and NCE are about.
        settings: which images are seen, where they lie, and how accuracies are measured, if they are.

    Returns:
        The candidates with their scores, the best first, and the decision with its line.

    Raises:
        InputError: a name is unknown, flags contradict each other, or no candidate could be scored; of
            some that fail `failed` says why.

    Source: docs/method.md, "Rankings".

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from utils.features import TaskRequest
        >>> with TemporaryDirectory() as folder:
        ...     tasks = TaskRequest(cache_dir=Path(folder), origin="embedded")
        ...     found = rank("MNIST", ["random:lenet"], settings=RankingSettings(shots=5, tasks=tasks))
        >>> found.decision.pick, round(found.decision.regret, 3)
        ('random:lenet', 0.0)
    """
    targets = [target] if isinstance(target, str) else list(target)
    return rank_entries(Comparison.of(targets, models, sources, settings or RankingSettings()))


def rank_entries(comparison: Comparison, failed: Mapping[str, str] | None = None) -> Ranking:
    """Rank the candidates of a comparison. `failed`: why some of them are left out already. One that
    fails does not end the others. Raises InputError if none is left.
    """
    board = _Scoreboard(comparison, failed=dict(failed or {}))
    for name, entry in comparison.entries.items():
        if name in board.failed:
            continue
        try:
            board.score(name, entry)
        except Exception as error:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            board.failed[name] = kind + " ".join(str(error).split())
    if not board.standings:
        reasons = [f"{name}: {reason}" for name, reason in board.failed.items()]
        raise InputError(f"no candidate is left: {'; '.join(reasons)}")
    board.add_consensus_and_table()
    return _decided(board)


def _decided(board: "_Scoreboard") -> Ranking:
    """Choose one of the candidates that were scored, and say what more labels would bring it."""
    comparison, settings = board.comparison, board.comparison.settings
    in_order = sorted(board.standings.items(), key=lambda one: place_of(one[1], settings.metric))
    standings = dict(in_order)
    predictions = {name: board.predictions[name] for name in standings}
    decision = decide(predictions, board.views, settings.resamples, settings.seed, settings.metric)
    if doubt := doubts_line(decision.pick, board.standings):
        warnings.warn(doubt, stacklevel=3)
    _, leader, fitted = board.leader
    curve = learning_curve(
        leader.scaled,
        leader.num_classes,
        settings.seed,
        fitted=fitted,
        new_images=leader.new_images,
        new_groups=leader.new_groups,
    )
    prediction = predictions[decision.pick]
    return Ranking(
        target=comparison.slug,
        metric=settings.metric,
        standings=standings,
        decision=decision,
        line=headline(decision, standings, prediction, settings.metric, board.failed),
        more_line=more_or_another(curve, decision, predictions, settings.metric),
        more_labels=curve.record,
        agreement=_agreement(standings, board),
        failed=board.failed,
        majority_share=prediction.majority,
        near_copies=report_near_copies(leader.scaled, leader.num_classes),
        seed=settings.seed,
        shots=settings.shots,
        samples=settings.samples,
        truth=str(settings.truth) if settings.truth else settings.fine_tuning,
        data=board.data,
        environment=environment(choose_device(settings.device)),
        target_folder=str(feature_path(comparison.target)) if comparison.of_files else None,
    )


def _agreement(
    standings: Mapping[str, Standing], board: "_Scoreboard"
) -> dict[str, tuple[list[str], Agreements]]:
    """Measure how well each score orders candidates: all of them, and those that are no controls."""
    settings, entries = board.comparison.settings, board.comparison.entries
    groups = {EVERYONE: list(standings)}
    real = [name for name in standings if not entries[name].is_control]
    if len(real) < len(standings):
        groups[WITHOUT_CONTROLS] = real
    accuracies = {name: one.measured(settings.metric) for name, one in standings.items()}
    if None in accuracies.values():
        return {}
    found = {}
    for title, names in groups.items():
        if len(names) > 2:
            scores = {name: standings[name].scores for name in names}
            found[title] = names, compare(scores, accuracies, settings.seed, board.networks)
    return found


@dataclass
class _Scoreboard:
    """What is known of the candidates so far, by their names; `of_views`: what was found of a set of
    target features. Of the best one so far, the `leader`, features and probe are kept: (its place, the
    candidate, the probe).
    """

    comparison: Comparison
    failed: dict[str, str]
    standings: dict[str, Standing] = field(default_factory=dict)
    predictions: dict[str, Prediction] = field(default_factory=dict)
    networks: dict[str, Hashable] = field(default_factory=dict)
    views: dict[str, Hashable] = field(default_factory=dict)
    of_views: dict[Hashable, Scored] = field(default_factory=dict)
    data: dict[str, dict] = field(default_factory=dict)
    images: str | None = None
    leader: tuple[tuple[float, bool, float], Candidate, LinearHead | None] | None = None

    def score(self, name: str, entry: Entry) -> None:
        """Open one candidate and add all that is known of it, or nothing if it fails."""
        settings, start = self.comparison.settings, time.perf_counter()
        candidate = open_candidate(name, entry, settings)
        if self.images not in (None, candidate.images):
            raise InputError("it could not read the same training images as the others")
        opened = time.perf_counter()
        scored = score_candidate(candidate, settings.seed, self.of_views.get(candidate.view))
        ready = time.perf_counter()
        standing = Standing(scored.scores, candidate.facts, note=scored.prediction.note)
        if settings.fine_tuning == FULL:
            accuracy, seconds = measure_full(entry, settings)
            standing = replace(standing, accuracy=accuracy, fine_tuning_seconds=seconds)
        elif settings.fine_tuning == LINEAR:
            standing = replace(
                standing,
                accuracy=scored.linear_accuracy,
                balanced_accuracy=scored.linear_balanced,
                fine_tuning_seconds=scored.seconds,
                doubts=tuple(scored.doubts),
            )
        self._add(candidate, scored, standing)
        times = f"features {opened - start:.1f} s, scores {ready - opened:.1f} s"
        print(f"scored {name}: {times}", file=sys.stderr)

    def _add(self, candidate: Candidate, scored: Scored, standing: Standing) -> None:
        name, self.images = candidate.name, candidate.images
        self.standings[name], self.predictions[name] = standing, scored.prediction
        self.networks[name], self.views[name] = candidate.network, candidate.view
        # Of held-out logits there are as many as of features: they are not kept for every network.
        self.of_views.setdefault(candidate.view, replace(scored, fitted=None))
        self.data |= candidate.provenance
        place = place_of(standing, self.comparison.settings.metric)
        if self.leader is None or place < self.leader[0]:
            self.leader = place, candidate, scored.fitted

    def add_consensus_and_table(self) -> None:
        """Add the consensus of some scores, and with a table of accuracies these and, if it has other
        targets, the order that looks at no data.
        """
        scores = {name: one.scores for name, one in self.standings.items()}
        if len(scores) > 1:
            order = consensus(scores, consensus_of(self.comparison.settings.metric))
            for name, mean_rank in order.items():
                scores[name]["consensus"] = mean_rank
        table, target = self.comparison.table, self.comparison.slug
        if table is None:
            return
        elsewhere = mean_rank_elsewhere(table.by_target(), target)
        for name, standing in self.standings.items():
            model, source = self.comparison.truth_key(name)
            self.standings[name] = replace(standing, accuracy=table.of(target, model, source))
            if model in elsewhere:
                scores[name][ELSEWHERE] = Score(elsewhere[model], None, 0.0, lower_is_better=True)
