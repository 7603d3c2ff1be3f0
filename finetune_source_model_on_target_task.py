"""Stage 2: linear fine-tuning, a Lipschitz head on the frozen backbone's target features.

    python3 finetune_source_model_on_target_task.py --SRC MNIST --TRG FMNIST --TAU 0.2
    python3 finetune_source_model_on_target_task.py --SRC MNIST --TRG FMNIST --PROCEDURE published
    python3 finetune_source_model_on_target_task.py --SRC imagenet_small --TRG cifar10 --model resnet18
    python3 finetune_source_model_on_target_task.py --SRC MNIST --TRG MNIST --DATA embedded
    python3 finetune_source_model_on_target_task.py --SRC features:A.npz --TRG features:B.npz

A LeNet (the default model) comes from stage 1; other models come pre-trained; feature files need none.
"""

from collections.abc import Sequence
from dataclasses import asdict

from scales import procedures, settings_for
from utils import distributed
from utils.backbones import LENET
from utils.device import choose_device
from utils.entry import stage_entry
from utils.errors import check_batch_size, require_finite
from utils.features import standardise, task_label
from utils.linear_head import evaluate_head, shared_linear_head
from utils.options import (
    HEAD_FLAGS,
    add_model_flags,
    add_setting_flags,
    override,
    stage_parser,
)
from utils.report import print_fine_tuning
from utils.stage import check_options, find_target, open_network, open_task
from utils.storage import (
    environment,
    replace_files,
    reusable_result,
    run_folder,
    save_tensors,
    write_result,
)


def parse_options(argv: Sequence[str] | None, model: str | None = LENET):
    parser = stage_parser(__doc__, with_target=True)
    add_model_flags(parser, model)
    settings = procedures(parser.peek("MODEL", argv))
    defaults = {name: scale.target_head for name, scale in settings.items()}
    add_setting_flags(parser, "target head [default of each procedure]", HEAD_FLAGS, defaults)
    return parser.parse_args(argv)


@stage_entry("stage 2 (finetune)")
def main(argv: Sequence[str] | None = None, model: str | None = LENET) -> None:
    # ------------------------------------------------------------------------------------- options
    options = parse_options(argv, model)
    check_options(options)
    scale = settings_for(options.PROCEDURE, options.MODEL, options.SRC, options.TRG)
    head_settings = override(scale.target_head, HEAD_FLAGS, options)
    device = choose_device(options.DEVICE, options.CPUS)

    # ----------------------------------------------------------------------- backbone, target features
    with distributed.process_group(device, options.CPUS):
        network = open_network(options, device)
        data = find_target(options, network)
        if options.BATCH_SIZE:  # the published default may be larger than a small data set
            check_batch_size(head_settings.batch_size, data.num_classes, len(data.train))
        target = open_task(data, options, network)
    if distributed.rank() > 0:  # extraction is shared between processes, the rest is not
        return

    # ------------------------------------------------------------------------ a result that is there?
    config = {
        "procedure": options.PROCEDURE,
        "head": asdict(head_settings),
        "deviation_floor": scale.deviation_floor,
        "network": network.about,
    }
    data = {"target": target.provenance}
    folder = run_folder(
        options.RESULTS_DIR, "finetune", task_label(options.SRC), target.name, network.model, None,
        options.SEED, options.PROCEDURE,
    )  # fmt: skip
    if stored := reusable_result(folder, config, data, options.OVERWRITE):
        print_fine_tuning(stored, folder, reused=True)
        return

    # ----------------------------------------------------------------------------------------- fit
    train, test = standardise(target, device, scale.deviation_floor)
    head = shared_linear_head(
        options.CHECKPOINT_DIR / "heads", train, target.num_classes, head_settings,
        seed=options.SEED, overwrite=options.OVERWRITE, progress="target head",
    )  # fmt: skip
    seconds = {"head": head.fit_seconds}

    # ---------------------------------------------------------------------------- report and save
    quantities = evaluate_head(head, train, test)
    require_finite("the target head", quantities)
    record = {
        "stage": "finetune",
        "source": task_label(options.SRC),
        "target": target.name,
        "model": network.model,
        "setting": None,
        "seed": options.SEED,
        "command": f"python3 finetune_source_model_on_target_task.py {options.command}",
        **quantities,
        "config": config,
        "data": data,
        "environment": environment(device),
        "seconds": seconds,
    }
    about = {"stage": "finetune", "source": options.SRC, "target": options.TRG}
    with replace_files(folder) as new:
        save_tensors(new / "head.safetensors", {"weight": head.weight, "bias": head.bias}, about)
        write_result(new, options.RESULTS_DIR, record)
    print_fine_tuning(record, folder)


if __name__ == "__main__":
    main()
