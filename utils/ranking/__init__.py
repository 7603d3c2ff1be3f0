"""Which model to take: candidates, their scores, and how sure the choice is."""

from utils.ranking.candidates import (
    Candidate,
    Entry,
    choose_points,
    files_of_target,
    folder_of_files,
    open_candidate,
)
from utils.ranking.decision import (
    ACCURACY,
    BALANCED,
    METRICS,
    Decision,
    Prediction,
    decide,
    more_or_another,
    predict_accuracy,
)
from utils.ranking.figures import draw_decision, draw_ranking, measured_by
from utils.ranking.fine_tuning import fine_tune
from utils.ranking.metrics import (
    OF_FEATURES,
    Sample,
    gbc,
    h_score,
    k_nearest,
    leep,
    logme,
    nce,
    transrate,
)
from utils.ranking.scores import (
    ELSEWHERE,
    PREDICTED,
    PREDICTED_BALANCED,
    PREDICTED_BY,
    Facts,
    Score,
    agreement_table,
    candidate_table,
    compare,
    consensus,
    published_agreement,
    score_table,
)
from utils.ranking.scoring import Scored, consensus_of, measure_full, score_candidate
from utils.ranking.truth import Truth, mean_rank_elsewhere, read_scores, read_truth
