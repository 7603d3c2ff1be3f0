"""Stage 2: linear fine-tuning, a Lipschitz head on the frozen backbone's target features.

    python3 finetune_source_model_on_target_task.py --SRC MNIST --TRG FMNIST --TAU 0.2
    python3 finetune_source_model_on_target_task.py --SRC MNIST --TRG FMNIST --PROCEDURE published
    python3 finetune_source_model_on_target_task.py --SRC imagenet_small --TRG cifar10 --model resnet18
    python3 finetune_source_model_on_target_task.py --SRC MNIST --TRG MNIST --DATA embedded
    python3 finetune_source_model_on_target_task.py --SRC features:A.npz --TRG features:B.npz

A LeNet (the default model) comes from stage 1; other models come pre-trained; feature files need none.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import utils
from utils.entry import stage_entry
from utils.errors import check_batch_size, require_finite
from utils.names import LENET
from utils.options import HEAD_FLAGS, add_model_flags, add_setting_flags, override, stage_parser
from utils.procedures import procedures, settings_for


def parse_options(
    argv: Sequence[str] | None = None, given: Mapping[str, Any] | None = None, model: str | None = LENET
) -> argparse.Namespace:
    """Parse the flags. `model`: the default of --model; None: it is required."""
    parser = stage_parser(__doc__, "finetune_source_model_on_target_task.py", with_target=True)
    add_model_flags(parser, model)
    settings = procedures(parser.peek("MODEL", argv))
    add_setting_flags(parser, "target head", HEAD_FLAGS, settings, "target_head")
    return parser.parse_args(argv, given)


def run(options: argparse.Namespace) -> dict | None:
    """Return the record of the result; None in torchrun's other processes."""
    # ------------------------------------------------------------------------------------- options
    options = utils.stage.check_options(options)
    asked = utils.stage.pair_request(options)
    scale = settings_for(options.PROCEDURE, options.MODEL, options.SRC, options.TRG)
    head_settings = override(scale.target_head, HEAD_FLAGS, options)
    device = utils.device.choose_device(options.DEVICE, options.CPUS)

    # ----------------------------------------------------------------------- backbone, target features
    with utils.distributed.process_group(device, options.CPUS):
        network = utils.stage.open_network(asked, device)
        target_data = utils.stage.find_target(asked)
        utils.stage.require_same_features(asked, network, target_data)
        if options.BATCH_SIZE:  # the published default may be larger than a small data set
            check_batch_size(head_settings.batch_size, target_data.num_classes, len(target_data.train))
        target = utils.stage.open_task(target_data, asked.tasks, network)
    if utils.distributed.rank() > 0:  # extraction is shared between processes, the rest is not
        return None

    # ------------------------------------------------------------------------ a result that is there?
    config = {
        "procedure": options.PROCEDURE,
        "head": asdict(head_settings),
        "deviation_floor": scale.deviation_floor,
        "network": network.about,
    }
    data = {"target": target.provenance}
    source = utils.features.task_slug(options.SRC)
    this = utils.storage.Run(
        stage="finetune",
        source=source,
        target=target.name,
        model=network.model,
        setting=None,
        seed=options.SEED,
        procedure=options.PROCEDURE,
    )
    folder = this.folder(options.RESULTS_DIR)
    if stored := utils.storage.reusable_result(folder, config, data, options.OVERWRITE):
        utils.report.print_fine_tuning(stored, folder, reused=True)
        utils.doubts.warn_of_doubts(stored)
        utils.near_copies.warn_of_near_copies(stored.get("near_copies"))
        return stored

    # ----------------------------------------------------------------------------------------- fit
    train, test = utils.features.standardise(target, device, scale.deviation_floor)
    head = utils.linear_head.shared_linear_head(
        options.CHECKPOINT_DIR / "heads",
        train,
        target.num_classes,
        head_settings,
        seed=options.SEED,
        overwrite=options.OVERWRITE,
        progress="target head",
    )

    # ---------------------------------------------------------------------------- report and save
    quantities = utils.linear_head.evaluate_head(head, train, test)
    require_finite("the target head", quantities)
    seconds, curve = {"head": head.fit_seconds}, None
    if head_settings.method == "ridge":
        with utils.stage.timed(seconds, "more_labels"):
            curve = utils.learning_curve.learning_curve(
                train,
                target.num_classes,
                options.SEED,
                fitted=head,
                new_images=len(test),
                new_groups=test.groups,
            )
        quantities["more_labels"] = curve.record
    least_balanced = quantities["intervals"]["balanced_accuracy"][0]
    quantities["doubts"] = doubts_of(head, curve, target.class_names, train, test, least_balanced)
    with utils.stage.timed(seconds, "near_copies"):
        near = utils.near_copies.report_near_copies(train, target.num_classes, test)
    record = {
        **this.names,
        "command": options.command,
        **quantities,
        "near_copies": near,
        "copies": getattr(target_data, "copies", None),
        "config": config,
        "data": data,
        "environment": utils.storage.environment(device),
        "seconds": seconds,
    }
    of_head = {"stage": "finetune", "source": options.SRC, "target": options.TRG}
    with utils.storage.replace_files(folder) as new:
        utils.storage.save_tensors(
            new / "head.safetensors", {"weight": head.weight, "bias": head.bias}, of_head
        )
        utils.storage.write_result(new, options.RESULTS_DIR, record)
    utils.report.print_fine_tuning(record, folder)
    utils.doubts.warn_of_doubts(record)
    utils.near_copies.warn_of_near_copies(record["near_copies"])
    return record


def doubts_of(
    head: utils.linear_head.LinearHead,
    curve: utils.learning_curve.LearningCurve | None,
    class_names: Sequence[str],
    train: utils.features.Features,
    test: utils.features.Features,
    least_balanced: float,
) -> list[str]:
    """Say what is odd about the head's accuracy, beside what its learning curve predicted. One whose
    balanced accuracy is above chance, at `least_balanced`, has found something.
    """
    predicted = None
    if curve and curve.accuracies:
        predicted = curve.accuracies[-1], curve.intervals[-1]
    measured = utils.doubts.doubts_of_accuracy(
        head.logits(test.x).argmax(1), test.y, class_names, predicted
    )
    if measured or least_balanced > 1 / head.num_classes:
        return measured
    return utils.doubts.doubts_of_probe(predicted, utils.statistics.majority_share(train.y))


@stage_entry("stage 2 (finetune)")
def main(argv: Sequence[str] | None = None, model: str | None = LENET) -> None:
    run(parse_options(argv, model=model))


if __name__ == "__main__":
    main()
