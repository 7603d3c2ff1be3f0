"""Data sets: a name becomes a `Dataset` of two splits of images with their labels."""

from utils.datasets.content import Content, DatasetEntry, Request
from utils.datasets.folders import FOLDER_PREFIX, folder_path, is_image_folder, path_of
from utils.datasets.grey import EMBEDDED_DIR
from utils.datasets.groups import Grouping, numbered_groups
from utils.datasets.idx import read_idx_split
from utils.datasets.images import (
    NO_LABEL,
    ImageFiles,
    Split,
    cluster_names,
    content_digest,
    image_name,
    is_labelled,
    rgb_image,
    select_groups,
)
from utils.datasets.jpeg import SUFFIXES as JPEG_SUFFIXES
from utils.datasets.jpeg import JpegSize, plain_jpeg
from utils.datasets.pixels import pixel_limit
from utils.datasets.registry import (
    DATASETS,
    Dataset,
    about_classes,
    about_groups,
    check_dataset_name,
    dataset_slug,
    load_dataset,
    require_folder,
)
