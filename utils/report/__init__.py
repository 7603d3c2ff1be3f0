"""What a person reads: the lines of a run, and tables of several."""

from utils.report.summary import (
    PUBLISHED_NAMES,
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
    deciding_control,
    more_labels_text,
    print_certificate,
    print_fine_tuning,
    print_heading,
    print_pseudo_labels,
    print_published,
    print_relation,
    print_training,
    print_where,
    verdict,
)
