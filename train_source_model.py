"""Stage 1: train the source network of the small scale.

    python3 train_source_model.py --SRC MNIST
    python3 train_source_model.py --SRC MNIST --PROCEDURE published
    python3 train_source_model.py --SRC MNIST --DATA embedded --EPOCHS 1          # seconds on a CPU

The network is left in checkpoints/networks/, where stages 2 and 3 find it.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import utils
from utils.entry import stage_entry
from utils.errors import check_batch_size, require_finite
from utils.names import LENET
from utils.options import TRAINING_FLAGS, add_decoding_flags, add_setting_flags, override, stage_parser
from utils.procedures import procedures, settings_for


def parse_options(
    argv: Sequence[str] | None = None, given: Mapping[str, Any] | None = None
) -> argparse.Namespace:
    parser = stage_parser(__doc__, "train_source_model.py", with_target=False)
    add_decoding_flags(parser.add_argument_group("images of a folder"))
    add_setting_flags(parser, "training", TRAINING_FLAGS, procedures(LENET), "training")
    return parser.parse_args(argv, given)


def run(options: argparse.Namespace) -> dict | None:
    """Return the record of the result; None in torchrun's other processes."""
    # ------------------------------------------------------------------------------------- options
    if utils.distributed.rank() > 0:  # one process trains
        return None
    source = utils.datasets.check_dataset_name(options.SRC, "source", grey_only=True)
    utils.stage.warn_of_grey(source)
    training = override(settings_for(options.PROCEDURE, LENET, source).training, TRAINING_FLAGS, options)
    if options.EPOCHS is not None:  # as many as were asked for
        training = replace(training, max_steps=None)
    device, tasks = (
        utils.device.choose_device(options.DEVICE, options.CPUS),
        utils.stage.task_request(options),
    )
    utils.stage.require_places(options)

    # ---------------------------------------------------------------------------------------- data
    if grouping := tasks.grouping and replace(tasks.grouping, where_it_fits=True):
        tasks = replace(tasks, grouping=grouping)
    dataset = utils.features.find_data(source, tasks, role="source", labels=options.LABELS)
    utils.stage.report_found(dataset)
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
    path = utils.storage.network_path(
        checkpoints=options.CHECKPOINT_DIR,
        model=LENET,
        source=dataset.name,
        origin=utils.stage.network_origin(source, dataset.provenance),
        procedure=options.PROCEDURE,
        seed=options.SEED,
    )
    this = utils.storage.Run(
        stage="train",
        source=dataset.name,
        target=None,
        model=LENET,
        setting=None,
        seed=options.SEED,
        procedure=options.PROCEDURE,
    )
    folder = this.folder(options.RESULTS_DIR)
    stored = utils.storage.reusable_result(folder, config, data, options.OVERWRITE)
    if stored and utils.backbones.holds_network(path, stored["weights_digest"]):
        utils.report.print_training(stored, path, reused=True)
        warn_of_left_out(stored)
        return stored

    # --------------------------------------------------------------------------------- model and fit
    decoded, left_out = [], []
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        frames, unreadable = utils.features.decoded_split(
            split, utils.backbones.GREY, tasks.workers, options.MAX_CORRUPT
        )
        utils.features.require_every_class(dataset, name, frames.labels)
        decoded.append(frames)
        text = utils.features.left_out_line(
            dataset.name, name, utils.features.without_root(split.images, unreadable), len(split)
        )
        left_out += [text] if text else []
    train, test = decoded
    network = utils.backbones.new_lenet(
        options.SEED, dataset.num_classes, training.convolution_dropout
    ).to(device)
    resume = utils.storage.ResumePoint(
        path.with_suffix(".resume.pt"),
        utils.storage.digest(config, utils.storage.without_paths(data), options.SEED),
    )
    seconds: dict[str, float] = {}
    with utils.stage.timed(seconds, "training"):
        utils.backbones.train_network(network, train, training, options.SEED, resume)

    # ---------------------------------------------------------------------------- report and save
    accuracy, loss = utils.backbones.evaluate_network(network, test)
    hits = round(accuracy * len(test))
    require_finite("training", {"test_loss": loss})
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    record = {
        **this.names,
        "command": options.command,
        "test_accuracy": accuracy,
        "test_loss": loss,
        "majority_share": utils.statistics.majority_share(test.labels),
        "intervals": {"test_accuracy": utils.statistics.wilson_interval(hits, len(test))},
        "weights_digest": utils.storage.state_digest(weights),
        **({"left_out": left_out} if left_out else {}),
        "config": config,
        "data": data,
        "environment": utils.storage.environment(device),
        "seconds": seconds,
    }
    with utils.storage.replace_files(folder) as new, utils.storage.atomic_write(path) as network_file:
        utils.storage.write_checkpoint(network_file, {"network": weights, "result": record})
        utils.storage.write_result(new, options.RESULTS_DIR, record)
    resume.clear()
    utils.report.print_training(record, path)
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
