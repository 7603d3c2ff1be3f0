"""Stage 3: learn the task transform from source to target and report the bound on the target loss.

    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --BATCH_SIZE 500 --TAU 0.2
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --SETTING LearnedA
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --PROCEDURE published
    python3 transfer_source_to_target.py --SRC imagenet_small --TRG cifar10 --model resnet18
    python3 transfer_source_to_target.py --SRC features:A.npz --TRG features:B.npz
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --TARGET_LABELS pseudo
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --SOURCE_CLASSES 5
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --DATA embedded --ITERATIONS 20

A LeNet (the default model) comes from stage 1; other models come pre-trained; feature files need none.
Shows stage 2's result when there is one.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from scales import procedures, settings_for
from utils import distributed
from utils.backbones import LENET
from utils.bound import transfer_bound
from utils.certificate import certificate_on_training_data, refine_transform
from utils.device import choose_device
from utils.errors import InputError, check_batch_size, require_finite
from utils.features import Features, standardise, with_clusters
from utils.linear_head import shared_linear_head
from utils.options import (
    CERTIFICATE_FLAGS,
    SOURCE_HEAD_FLAGS,
    TRANSFORM_FLAGS,
    add_flag,
    add_model_flags,
    add_setting_flags,
    class_choice,
    class_count,
    one_of,
    override,
    positive_integer,
    stage_entry,
    stage_parser,
    truth_value,
    whole_number,
)
from utils.pseudo_labels import (
    EQUAL,
    FREE,
    GIVEN,
    PSEUDO,
    cluster,
    label_agreement,
    re_estimate,
)
from utils.report import draw_bound, draw_figures, print_pseudo_labels, print_transfer
from utils.source_classes import ALL, choose_source_classes, number_of_classes
from utils.stage import (
    check_options,
    find_source,
    find_target,
    open_network,
    open_task,
    variant_label,
)
from utils.storage import (
    ResumePoint,
    changed_settings,
    digest,
    environment,
    read_result,
    run_folder,
    save_tensors,
    write_result,
)
from utils.summary import is_fine_tuning_of
from utils.task_transform import (
    SETTINGS,
    TaskTransform,
    check_setting,
    final_objective,
    learn_task_transform,
)


def parse_options(argv: Sequence[str] | None, model: str | None = LENET):
    parser = stage_parser(__doc__, with_target=True)
    add_model_flags(parser, model)
    group = parser.add_argument_group("what is learned")
    add_flag(
        group, "--SETTING", type=one_of(SETTINGS), default="LearnedAll", metavar="NAME",
        help="LearnedAll (default): A, b, its inverse, B, D; LearnedA: B a random permutation; "
        "FixedAll: B a random permutation and nothing learned",
    )  # fmt: skip
    add_flag(
        group, "--SOURCE_CLASSES", type=class_choice, default=ALL, metavar="CHOICE",
        help="of the source: all (default), random or similar (as many as the target has), or N random "
        "ones",
    )  # fmt: skip
    add_flag(
        group, "--TARGET_LABELS", type=one_of((GIVEN, PSEUDO)), default=GIVEN, metavar="HOW",
        help="given (default), or pseudo: clusters of the target's features, its own labels unused",
    )  # fmt: skip
    add_flag(
        group, "--TARGET_CLASSES", type=class_count, metavar="K",
        help="classes of a target that has no labels: a features: file without y_train and y_test, or a "
        "folder: of images in no class folders (default: the target's labels say it)",
    )  # fmt: skip
    add_flag(
        group, "--PSEUDO_SIZES", type=one_of((EQUAL, FREE)), default=EQUAL, metavar="HOW",
        help="clusters of equal size (default), as the classes of most data sets are, or free",
    )  # fmt: skip
    add_flag(
        group, "--PSEUDO_ROUNDS", type=positive_integer, default=1, metavar="N",
        help="times that the transform is learned with pseudo-labels, anew each time (default 1)",
    )  # fmt: skip
    add_flag(
        group, "--CERTIFY", type=truth_value, default=True, metavar="BOOL",
        help="also refine a copy of the transform to minimise bound_certified (default True; there is "
        "nothing to refine under FixedAll)",
    )  # fmt: skip
    add_flag(
        group, "--BOOTSTRAP", type=whole_number, default=200, metavar="N",
        help="resamples of the test samples for 95 %% intervals (default 200); 0 turns them off",
    )  # fmt: skip
    settings = procedures(parser.peek("MODEL", argv)).items()
    for title, flags, defaults in (
        ("source head", SOURCE_HEAD_FLAGS, {name: scale.source_head for name, scale in settings}),
        ("transform", TRANSFORM_FLAGS, {name: scale.transform for name, scale in settings}),
        ("certificate", CERTIFICATE_FLAGS, {name: scale.certificate for name, scale in settings}),
    ):
        add_setting_flags(parser, f"{title} [default of each procedure]", flags, defaults)
    return parser.parse_args(argv)


@stage_entry("stage 3 (transfer)")
def main(argv: Sequence[str] | None = None, model: str | None = LENET) -> None:
    # ------------------------------------------------------------------------------------- options
    options = parse_options(argv, model)
    check_options(options)
    scale = settings_for(options.PROCEDURE, options.MODEL, options.SRC, options.TRG)
    head_settings = override(scale.source_head, SOURCE_HEAD_FLAGS, options)
    transform_settings = replace(
        override(scale.transform, TRANSFORM_FLAGS, options), setting=options.SETTING
    )
    certificate_settings = override(scale.certificate, CERTIFICATE_FLAGS, options)
    certify = options.CERTIFY and options.SETTING != "FixedAll"
    pseudo = options.TARGET_LABELS == PSEUDO
    if options.TARGET_CLASSES and not pseudo:
        raise InputError("--TARGET_CLASSES is for a target without labels: add --TARGET_LABELS pseudo")
    device = choose_device(options.DEVICE)

    # ------------------------------------------------------------------ backbone, features of both tasks
    with distributed.process_group(device):
        network = open_network(options, device)
        target_data = find_target(options, network, options.TARGET_CLASSES)
        source_data = find_source(options, network, target_data.num_classes)
        chosen = number_of_classes(options.SOURCE_CLASSES, target_data.num_classes)
        num_classes = (chosen or source_data.num_classes, target_data.num_classes)
        check_setting(options.SETTING, *num_classes)
        if options.SETTING != "FixedAll":  # which draws no batch
            smaller = min(len(source_data.train), len(target_data.train))
            check_batch_size(transform_settings.batch_size, max(num_classes), smaller)
        source = open_task(source_data, options, network)
        target = open_task(target_data, options, network)
    if distributed.rank() > 0:  # extraction is shared between processes, the rest is not
        return
    labelled, given = target.labelled, target.test.y
    target_train, target_test = standardise(target, device, scale.deviation_floor)
    seconds, start = {}, time.perf_counter()
    if pseudo:  # from here on its own labels are used for nothing but the comparison with them
        clusters = cluster(target_train.x, target.num_classes, options.SEED, options.PSEUDO_SIZES)
        target_train, target_test = clusters.relabel(target_train), clusters.relabel(target_test)
        target = with_clusters(target, target_train.y, target_test.y)
        seconds["clusters"] = time.perf_counter() - start
    source = choose_source_classes(source, target, options.SOURCE_CLASSES, options.SEED)

    # ------------------------------------------------------------------------ a result that is there?
    config = {
        "procedure": options.PROCEDURE,
        "head": asdict(head_settings),
        "transform": asdict(transform_settings),
        "certificate": asdict(certificate_settings) if certify else None,
        "tau_measure": scale.tau_measure,
        "deviation_floor": scale.deviation_floor,
        "bootstrap": options.BOOTSTRAP,
        "network": network.about,
    }
    if pseudo:
        config |= {"pseudo_rounds": options.PSEUDO_ROUNDS, "pseudo_sizes": options.PSEUDO_SIZES}
    data = {"source": source.provenance, "target": target.provenance}
    seed, procedure = options.SEED, options.PROCEDURE
    pair = (source.name, target.name, network.model)
    run, variant = (*pair, options.SETTING, seed, procedure), variant_label(options)
    folder = run_folder(options.RESULTS_DIR, "transfer", *run, variant)
    labelled_folder = run_folder(
        options.RESULTS_DIR, "transfer", *run, variant_label(options, target_labels=GIVEN)
    )
    fine_tuned = read_result(run_folder(options.RESULTS_DIR, "finetune", *pair, None, seed, procedure))
    # A head that was fitted to labels says nothing of a run on clusters.
    if fine_tuned and (pseudo or not is_fine_tuning_of(fine_tuned, config, data)):
        fine_tuned = None
    stored = read_result(folder) if (folder / "transform.safetensors").exists() else None
    if stored and not options.OVERWRITE and not changed_settings(stored, config, data):
        draw_bound(stored, fine_tuned, folder)
        print_transfer(stored, fine_tuned, folder, reused=True)
        if pseudo:
            print_pseudo_labels(stored, read_result(labelled_folder))
        return

    # ------------------------------------------------------------------------ source head, transform
    source_train, source_test = standardise(source, device, scale.deviation_floor)
    head = shared_linear_head(
        options.CHECKPOINT_DIR / "heads", source_train, source.num_classes, head_settings,
        seed=seed, overwrite=options.OVERWRITE, progress="source head",
    )  # fmt: skip
    seconds["source_head"] = head.fit_seconds

    def learn(target: Features, number: int = 0) -> TaskTransform:
        path = folder / (f"resume_transform_{number}.pt" if number else "resume_transform.pt")
        resume = ResumePoint(path, digest(config, data, seed, number))
        return learn_task_transform(
            source_train, target, head, transform_settings, seed=seed, resume=resume
        )

    start = time.perf_counter()
    transform = learn(target_train)
    for number in range(1, options.PSEUDO_ROUNDS if pseudo else 1):
        clusters = re_estimate(clusters, target_train.x, transform, head, options.PSEUDO_SIZES)
        target_train, target_test = clusters.relabel(target_train), clusters.relabel(target_test)
        transform = learn(target_train, number)
    agreement = label_agreement(target_test.y.cpu(), given) if pseudo and labelled else None
    seconds["transform"] = time.perf_counter() - start

    start = time.perf_counter()
    refined = None
    if certify:
        refined = refine_transform(
            transform, source_train, target_train, head, certificate_settings,
            refine_labels=options.SETTING == "LearnedAll", seed=seed,
        )  # fmt: skip
    seconds["refinement"] = time.perf_counter() - start

    # --------------------------------------------------------------------------------------- bound
    def quantities(transform: TaskTransform) -> dict:
        bound = transfer_bound(
            transform, head, source_test, target_test,
            tau_measure=scale.tau_measure, bootstrap=options.BOOTSTRAP, seed=seed,
        )  # fmt: skip
        train, test = (source_train, target_train), (source_test, target_test)
        certified_train = certificate_on_training_data(transform, head, train, test, seed)
        return {**bound.quantities(), "bound_certified_train": certified_train}

    start = time.perf_counter()
    learned_quantities = quantities(transform)
    refined_quantities = quantities(refined) if refined else None
    seconds["bound"] = time.perf_counter() - start

    # ---------------------------------------------------------------------------- report and save
    record = {
        "stage": "transfer",
        "source": source.name,
        "target": target.name,
        "model": network.model,
        "setting": options.SETTING,
        "variant": variant,
        "seed": seed,
        "command": f"python3 transfer_source_to_target.py {options.command}",
        **learned_quantities,
        "source_head_optimality_gap": head.optimality_gap,
        "refined": refined_quantities,
        "pseudo_labels": {"agreement": agreement} if pseudo else None,
        "iterations": transform.iterations,
        "final_objective": final_objective(transform, transform_settings),
        "config": config,
        "data": data,
        "environment": environment(device),
        "seconds": seconds,
    }
    require_finite("transfer", learned_quantities)
    require_finite("the refinement", refined_quantities or {})
    (folder / "result.json").unlink(missing_ok=True)  # an old one must not describe new tensors
    about = {"source": options.SRC, "target": options.TRG}
    for name, saved in (("transform", transform), ("refined", refined)):
        if saved:
            tensors = {**saved.tensors(), "weight": head.weight, "bias": head.bias}
            save_tensors(folder / f"{name}.safetensors", tensors, about)
        else:  # an earlier run's refined copy does not belong to this result
            (folder / f"{name}.safetensors").unlink(missing_ok=True)
    names = (source.class_names, target.class_names)
    draw_figures(record, fine_tuned, transform, source_test, target_test, names, folder)
    write_result(folder, options.RESULTS_DIR, record)
    for path in folder.glob("resume_transform*.pt"):
        path.unlink()
    print_transfer(record, fine_tuned, folder)
    if pseudo:
        print_pseudo_labels(record, read_result(labelled_folder))


if __name__ == "__main__":
    main()
