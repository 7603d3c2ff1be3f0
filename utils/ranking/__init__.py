"""Which model to take: candidates, their scores, and how sure the choice is."""

from utils.ranking.advice import headline_of_sources, place_of
from utils.ranking.candidates import Candidate, choose_points, open_candidate
from utils.ranking.comparison import rank, rank_entries
from utils.ranking.decision import Decision, Prediction, decide, more_or_another, predict_accuracy
from utils.ranking.entries import Comparison, Entry, RankingSettings
from utils.ranking.figures import draw_decision, draw_ranking
from utils.ranking.fine_tuning import fine_tune, measure_full
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
from utils.ranking.record import Ranking, Standing, read_ranking, warn_of_another, write_ranking
from utils.ranking.scores import PREDICTED, Facts, Score, consensus, published_agreement, score_table
from utils.ranking.scoring import consensus_of, score_candidate
from utils.ranking.truth import mean_rank_elsewhere, read_scores, read_truth
