"""What a ranking says in a line: which candidate to take, and what stands against it."""

import math
from collections.abc import Iterable, Mapping

from utils.names import ACCURACY, BALANCED
from utils.ranking.decision import Decision, Prediction
from utils.ranking.record import Standing
from utils.ranking.scores import PREDICTED_BY
from utils.relation import SIGNIFICANT
from utils.report import QUANTITIES

SOURCE_P, MAP_LOSS = QUANTITIES["source_contribution_p"], QUANTITIES["label_map_loss"]


def place_of(standing: Standing, metric: str) -> tuple[float, bool, float]:
    """Return what candidates are sorted by, the less the better: the best prediction first; of one
    network's sources those whose classes are related to the target's, and of these the least label
    map's loss.
    """
    scores = standing.scores
    p, loss = (scores[score].value if score in scores else math.inf for score in (SOURCE_P, MAP_LOSS))
    return -scores[PREDICTED_BY[metric]].value, p > SIGNIFICANT, loss


def headline(
    decision: Decision,
    standings: Mapping[str, Standing],
    prediction: Prediction,
    metric: str,
    failed: Iterable[str],
) -> str:
    """Write the line to act on; of one network with several sources, which source. `prediction`: the
    pick's; `failed`: the candidates that are left out.
    """
    text, speed = decision.line, standings[decision.pick].facts.images_per_second
    text += f"; {speed:.0f} images/s here" if speed else ""
    if len(decision.odds) == 1 and len(standings) > 1:
        text = f"{', '.join(standings)} see the same: there is nothing to choose between"
        if SOURCE_P in standings[decision.pick].scores:
            text = headline_of_sources(decision.pick, standings)
    if metric == BALANCED:
        text += "; by balanced accuracy"
    if prediction.note:
        text += f"; accuracies are {prediction.note}"
    text += nothing_found(prediction, metric)
    if failed := list(failed):
        text += f"; {len(failed)} failed and are not compared: {', '.join(failed)}"
    return text


def headline_of_sources(pick: str, standings: Mapping[str, Standing]) -> str:
    """Say, for one network with several sources, whose classes say most of the target's."""
    p = {name: one.scores[SOURCE_P].value for name, one in standings.items()}
    empty = [name for name, value in p.items() if value > SIGNIFICANT]
    said = f"the classes of {', '.join(empty)} say no more of the target's than classes mixed at random"
    if pick in empty:
        return f"one network with several sources: there is nothing to choose between; {said}"
    loss = standings[pick].scores[MAP_LOSS].value
    text = (
        f"take {pick}: of one network's sources the one whose classes say most of the target's (p "
        f"{p[pick]:.2f}, {loss:.2f} nats by labels alone)"
    )
    return f"{text}; {said}" if empty else text


def nothing_found(prediction: Prediction, metric: str) -> str:
    """Say that the best probe is not known to be better than none, where it is so."""
    _, (low, _), chance = prediction.found(metric)
    if chance is None or low > chance:
        return ""
    balanced, (low, _), even = prediction.found(BALANCED)
    if metric == ACCURACY and low > even:
        return (
            f"; by accuracy it is not known to be better than always saying one class ({chance:.3f}), "
            f"by balanced accuracy it is ({balanced:.3f}): --METRIC balanced"
        )
    return (
        f"; no candidate is known to tell anything, there is no pick to act on: always saying one class "
        f"is right of {chance:.3f}"
    )


def doubts_line(pick: str, standings: Mapping[str, Standing]) -> str | None:
    """Write one line for all candidates of odd measured accuracy: the pick's if it is one of them."""
    odd = [name for name, one in standings.items() if one.doubts]
    if not odd:
        return None
    name = pick if pick in odd else odd[0]
    more = f" (and so of {len(odd) - 1} other candidates)" if len(odd) > 1 else ""
    return f"{name}: {standings[name].doubts[0]}{more}"
