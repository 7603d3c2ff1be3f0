"""Stage 2: linear fine-tuning, a Lipschitz head on the frozen backbone's target features.

    python3 finetune_source_model_on_target_task.py --SRC MNIST --TRG FMNIST --TAU 0.2
    python3 finetune_source_model_on_target_task.py --SRC MNIST --TRG FMNIST --PROCEDURE published
    python3 finetune_source_model_on_target_task.py --SRC imagenet_small --TRG cifar10 --model resnet18
    python3 finetune_source_model_on_target_task.py --SRC MNIST --TRG MNIST --DATA embedded
    python3 finetune_source_model_on_target_task.py --SRC features:A.npz --TRG features:B.npz

A LeNet (the default model) comes from stage 1; other models come pre-trained; feature files need none.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scales import procedures, settings_for
from utils import distributed
from utils.backbones import LENET
from utils.device import choose_device
from utils.doubts import doubts_of_accuracy, doubts_of_probe, warn_of_doubts
from utils.entry import stage_entry
from utils.errors import check_batch_size, require_finite
from utils.features import Features, standardise, task_slug
from utils.learning_curve import LearningCurve, learning_curve
from utils.linear_head import LinearHead, evaluate_head, shared_linear_head
from utils.near_copies import report_near_copies, warn_of_near_copies
from utils.options import HEAD_FLAGS, add_model_flags, add_setting_flags, override, stage_parser
from utils.report import print_fine_tuning
from utils.stage import (
    check_options,
    find_target,
    open_network,
    open_task,
    pair_request,
    require_same_features,
    timed,
)
from utils.statistics import majority_share
from utils.storage import Run, environment, replace_files, reusable_result, save_tensors, write_result


def parse_options(
    argv: Sequence[str] | None = None,
    given: Mapping[str, Any] | None = None,
    model: str | None = LENET,
) -> argparse.Namespace:
    """`model`: the default of --model; None: it is required."""
    parser = stage_parser(__doc__, "finetune_source_model_on_target_task.py", with_target=True)
    add_model_flags(parser, model)
    settings = procedures(parser.peek("MODEL", argv))
    defaults = {name: scale.target_head for name, scale in settings.items()}
    add_setting_flags(parser, "target head [default of each procedure]", HEAD_FLAGS, defaults)
    return parser.parse_args(argv, given)


def run(options: argparse.Namespace) -> dict | None:
    """The record of the result; None in torchrun's other processes."""
    # ------------------------------------------------------------------------------------- options
    options = check_options(options)
    asked = pair_request(options)
    scale = settings_for(options.PROCEDURE, options.MODEL, options.SRC, options.TRG)
    head_settings = override(scale.target_head, HEAD_FLAGS, options)
    device = choose_device(options.DEVICE, options.CPUS)

    # ----------------------------------------------------------------------- backbone, target features
    with distributed.process_group(device, options.CPUS):
        network = open_network(asked, device)
        target_data = find_target(asked)
        require_same_features(asked, network, target_data)
        if options.BATCH_SIZE:  # the published default may be larger than a small data set
            check_batch_size(head_settings.batch_size, target_data.num_classes, len(target_data.train))
        target = open_task(target_data, asked.tasks, network)
    if distributed.rank() > 0:  # extraction is shared between processes, the rest is not
        return None

    # ------------------------------------------------------------------------ a result that is there?
    config = {
        "procedure": options.PROCEDURE,
        "head": asdict(head_settings),
        "deviation_floor": scale.deviation_floor,
        "network": network.about,
    }
    data = {"target": target.provenance}
    source = task_slug(options.SRC)
    this = Run("finetune", source, target.name, network.model, None, options.SEED, options.PROCEDURE)
    folder = this.folder(options.RESULTS_DIR)
    if stored := reusable_result(folder, config, data, options.OVERWRITE):
        print_fine_tuning(stored, folder, reused=True)
        warn_of_doubts(stored)
        warn_of_near_copies(stored.get("near_copies"))
        return stored

    # ----------------------------------------------------------------------------------------- fit
    train, test = standardise(target, device, scale.deviation_floor)
    head = shared_linear_head(
        options.CHECKPOINT_DIR / "heads", train, target.num_classes, head_settings,
        seed=options.SEED, overwrite=options.OVERWRITE, progress="target head",
    )  # fmt: skip

    # ---------------------------------------------------------------------------- report and save
    quantities = evaluate_head(head, train, test)
    require_finite("the target head", quantities)
    seconds, curve = {"head": head.fit_seconds}, None
    if head_settings.method == "ridge":
        with timed(seconds, "more_labels"):
            curve = learning_curve(
                train, target.num_classes, options.SEED, fitted=head,
                new_images=len(test), new_groups=test.groups,
            )  # fmt: skip
        quantities["more_labels"] = curve.record
    least_balanced = quantities["intervals"]["balanced_accuracy"][0]
    quantities["doubts"] = doubts_of(head, curve, target.class_names, train, test, least_balanced)
    with timed(seconds, "near_copies"):
        near = report_near_copies(train, target.num_classes, test)
    record = {
        **this.names,
        "command": options.command,
        **quantities,
        "near_copies": near,
        "copies": getattr(target_data, "copies", None),
        "config": config,
        "data": data,
        "environment": environment(device),
        "seconds": seconds,
    }
    of_head = {"stage": "finetune", "source": options.SRC, "target": options.TRG}
    with replace_files(folder) as new:
        save_tensors(new / "head.safetensors", {"weight": head.weight, "bias": head.bias}, of_head)
        write_result(new, options.RESULTS_DIR, record)
    print_fine_tuning(record, folder)
    warn_of_doubts(record)
    warn_of_near_copies(record["near_copies"])
    return record


def doubts_of(
    head: LinearHead,
    curve: LearningCurve | None,
    class_names: Sequence[str],
    train: Features,
    test: Features,
    least_balanced: float,
) -> list[str]:
    """What is odd about the head's accuracy, beside what its learning curve foretold. One whose balanced
    accuracy is above chance, at `least_balanced`, has found something.
    """
    predicted = None
    if curve and curve.accuracies:
        predicted = curve.accuracies[-1], curve.intervals[-1]
    measured = doubts_of_accuracy(head.logits(test.x).argmax(1), test.y, class_names, predicted)
    if measured or least_balanced > 1 / head.num_classes:
        return measured
    return doubts_of_probe(predicted, majority_share(train.y))


@stage_entry("stage 2 (finetune)")
def main(argv: Sequence[str] | None = None, model: str | None = LENET) -> None:
    run(parse_options(argv, model=model))


if __name__ == "__main__":
    main()
