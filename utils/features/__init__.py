"""Features: images seen through a backbone, as the analysis takes them."""

from utils.features.cache import SHARD, cached_features
from utils.features.decoding import decoded_split, left_out_line, prepared_frames, without_root
from utils.features.extraction import batch_size, extract_features, images_per_second
from utils.features.files import (
    FEATURE_FILE_PREFIX,
    classifier_of_feature_file,
    expand_feature_files,
    feature_path,
    is_feature_file,
    require_same_labels,
    task_of_feature_file,
)
from utils.features.pseudo_labels import PSEUDO_VARIANT, cluster, clustering_accuracy
from utils.features.source_classes import (
    choose_source_classes,
    number_of_classes,
    select_classes,
    too_few_classes,
)
from utils.features.standardise import Standardiser, standardise
from utils.features.tasks import (
    TaskRequest,
    absolute_name,
    check_task_name,
    features_of_split,
    find_data,
    load_task,
    needs_backbone,
    require_every_class,
    same_images,
    task_of_dataset,
    task_slug,
    with_clusters,
)
from utils.features.types import Features, Task
