"""Stage 1: train the source network of the small scale.

    python3 train_source_model.py --SRC MNIST
    python3 train_source_model.py --SRC MNIST --PROCEDURE published
    python3 train_source_model.py --SRC MNIST --DATA embedded --EPOCHS 1          # seconds on a CPU

The network is left in checkpoints/networks/, where stages 2 and 3 find it.
"""

import argparse
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from small_scale.settings import PROCEDURES, settings_for
from utils import distributed
from utils.backbones import GREY, LENET, LeNet, evaluate_network, holds_network, train_network
from utils.datasets import Grouping, check_dataset_name, load_dataset
from utils.device import choose_device
from utils.entry import stage_entry
from utils.errors import check_batch_size, require_finite
from utils.features import decoded_split, left_out_line, require_every_class, without_root
from utils.options import TRAINING_FLAGS, add_decoding_flags, add_setting_flags, override, stage_parser
from utils.report import print_training
from utils.stage import (
    network_origin,
    require_places,
    task_request,
    timed,
    told,
    warn_of_grey,
)
from utils.statistics import majority_share, wilson_interval
from utils.storage import (
    ResumePoint,
    Run,
    atomic_write,
    digest,
    environment,
    network_path,
    replace_files,
    reusable_result,
    state_digest,
    without_paths,
    write_checkpoint,
    write_result,
)


def parse_options(
    argv: Sequence[str] | None = None, given: Mapping[str, Any] | None = None
) -> argparse.Namespace:
    parser = stage_parser(__doc__, "train_source_model.py", with_target=False)
    defaults = {name: settings.training for name, settings in PROCEDURES.items()}
    add_decoding_flags(parser.add_argument_group("images of a folder"))
    add_setting_flags(parser, "training [default of each procedure]", TRAINING_FLAGS, defaults)
    return parser.parse_args(argv, given)


def run(options: argparse.Namespace) -> dict | None:
    """The record of the result; None in torchrun's other processes."""
    # ------------------------------------------------------------------------------------- options
    if distributed.rank() > 0:  # one process trains
        return None
    source = check_dataset_name(options.SRC, "source", grey_only=True)
    warn_of_grey(source)
    training = override(settings_for(options.PROCEDURE, source).training, TRAINING_FLAGS, options)
    if options.EPOCHS is not None:  # as many as were asked for
        training = replace(training, max_steps=None)
    device, tasks = choose_device(options.DEVICE, options.CPUS), task_request(options)
    require_places(options)

    # ---------------------------------------------------------------------------------------- data
    grouping = Grouping(options.GROUPS, where_it_fits=True) if options.GROUPS else None
    dataset = load_dataset(
        source, options.DATA, options.DATA_DIR, "source", options.SEED, labels=options.LABELS,
        index_dir=tasks.index_dir, max_pixels=options.MAX_PIXELS, grouping=grouping,
    )  # fmt: skip
    told(dataset)
    if grouping and dataset.train.groups is None:
        warnings.warn(f"--GROUPS {grouping.text} matches no image of {source}", stacklevel=2)
    if options.BATCH_SIZE is None and len(dataset.train) < training.batch_size:
        # A small set of images of one's own is one batch.
        training = replace(training, batch_size=len(dataset.train))
    check_batch_size(training.batch_size, dataset.num_classes, len(dataset.train.labels))
    training = training.for_images(len(dataset.train.labels))

    # ------------------------------------------------------------------------ a result that is there?
    config = {"procedure": options.PROCEDURE, "training": asdict(training)}
    data = {"source": dataset.provenance}
    path = network_path(
        options.CHECKPOINT_DIR, LENET, dataset.name,
        network_origin(source, dataset.provenance), options.PROCEDURE, options.SEED,
    )  # fmt: skip
    this = Run("train", dataset.name, None, LENET, None, options.SEED, options.PROCEDURE)
    folder = this.folder(options.RESULTS_DIR)
    stored = reusable_result(folder, config, data, options.OVERWRITE)
    if stored and holds_network(path, stored["weights_digest"]):
        print_training(stored, path, reused=True)
        warn_of_left_out(stored)
        return stored

    # --------------------------------------------------------------------------------- model and fit
    decoded, left_out = [], []
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        frames, unreadable = decoded_split(split, GREY, tasks.workers, options.MAX_CORRUPT)
        require_every_class(dataset, name, frames.labels)
        decoded.append(frames)
        text = left_out_line(dataset.name, name, without_root(split.images, unreadable), len(split))
        left_out += [text] if text else []
    train, test = decoded
    torch.manual_seed(options.SEED)
    network = LeNet(dataset.num_classes, training.convolution_dropout).to(device)
    resume = ResumePoint(
        path.with_suffix(".resume.pt"), digest(config, without_paths(data), options.SEED)
    )
    seconds: dict[str, float] = {}
    with timed(seconds, "training"):
        train_network(network, train, training, options.SEED, resume)

    # ---------------------------------------------------------------------------- report and save
    accuracy, loss = evaluate_network(network, test)
    hits = round(accuracy * len(test))
    require_finite("training", {"test_loss": loss})
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    record = {
        **this.names,
        "command": options.command,
        "test_accuracy": accuracy,
        "test_loss": loss,
        "majority_share": majority_share(test.labels),
        "intervals": {"test_accuracy": wilson_interval(hits, len(test))},
        "weights_digest": state_digest(weights),
        **({"left_out": left_out} if left_out else {}),
        "config": config,
        "data": data,
        "environment": environment(device),
        "seconds": seconds,
    }
    with replace_files(folder) as new, atomic_write(path) as network_file:
        write_checkpoint(network_file, {"network": weights, "result": record})
        write_result(new, options.RESULTS_DIR, record)
    resume.clear()
    print_training(record, path)
    warn_of_left_out(record)
    return record


def warn_of_left_out(record: Mapping) -> None:
    for text in record.get("left_out", ()):
        warnings.warn(text, stacklevel=2)


@stage_entry("stage 1 (train)")
def main(argv: Sequence[str] | None = None) -> None:
    run(parse_options(argv))


if __name__ == "__main__":
    main()
