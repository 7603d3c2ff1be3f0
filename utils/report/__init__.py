"""What a person looks at: tables, figures and the page of all runs."""

from utils.report.figures import (
    MARKERS,
    draw_certificate,
    draw_published,
    draw_published_bound,
    draw_relation,
    save_both,
)
from utils.report.overview import (
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
from utils.report.page import Block, Figure, Folded, Paragraph, Table, render_page
from utils.report.summary import (
    QUANTITIES,
    UNDEFINED,
    csv_table,
    format_value,
    is_fine_tuning_of,
    latex,
    markdown,
    markdown_table,
    quantities_of,
    summarise,
    write_summary,
)
from utils.report.tables import (
    CERTIFICATE_ROWS,
    HOW_WELL_ROWS,
    PUBLISHED_ROWS,
    RELATION_ROWS,
    more_labels_text,
    print_certificate,
    print_fine_tuning,
    print_heading,
    print_pseudo_labels,
    print_published,
    print_relation,
    print_training,
    print_where,
)
