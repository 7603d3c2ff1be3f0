"""Linear heads: fitted by validation, under a Lipschitz constraint or as the released code does."""

from utils.linear_head.fit import HeadSettings, fit_linear_head
from utils.linear_head.head import (
    LinearHead,
    Logits,
    evaluate_head,
    label_gradient_norms,
    lipschitz_constant,
    loss_gradient_norms,
    on_standardised,
    summed_gradient_norms,
)
from utils.linear_head.lipschitz import GAP
from utils.linear_head.mixture import log_class_probabilities
from utils.linear_head.ridge import SEARCHED, STEP, fit_ridge, fit_validated_ridge
from utils.linear_head.shared import shared_linear_head
