"""Storage: what is written is whole, and what is read back is known to be."""

from utils.storage.checkpoints import (
    ResumePoint,
    find_network,
    load_checkpoint,
    load_safetensors,
    load_tensors,
    network_path,
    read_if_whole,
    save_checkpoint,
    save_tensors,
    write_checkpoint,
)
from utils.storage.files import (
    REPOSITORY,
    atomic_write,
    digest,
    file_digest,
    is_writable,
    only_one,
    read_json,
    replace_files,
    require_regular,
    require_writable,
    staged,
    state_digest,
    write_json,
    write_text,
)
from utils.storage.results import (
    PARTS,
    Run,
    append_record,
    changed_settings,
    environment,
    finished_results,
    read_records,
    read_result,
    reusable_result,
    write_result,
)
