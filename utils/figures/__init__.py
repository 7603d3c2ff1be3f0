"""Pictures: of a run, of all runs, and the page that holds them."""

from utils.figures.overview import (
    GROUPS_A_FIGURE,
    agreement_of_bounds,
    comparable_settings,
    draw_agreement,
    draw_relations,
    draw_settings,
    draw_terms,
    group_runs,
    is_pseudo,
    pseudo_table,
    relation_groups,
    relation_table,
)
from utils.figures.page import Block, Figure, Folded, Paragraph, Table, render_page
from utils.figures.run import (
    MARKERS,
    draw_certificate,
    draw_published,
    draw_published_bound,
    draw_relation,
    save_both,
    save_figure,
    subplots,
)
