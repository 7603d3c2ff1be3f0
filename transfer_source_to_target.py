"""Stage 3: how well a source transfers to a target, and why: the certificate and the published bound.

    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --BATCH_SIZE 500 --TAU 0.2
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --SETTING LearnedA
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --PROCEDURE published
    python3 transfer_source_to_target.py --SRC imagenet_small --TRG cifar10 --model resnet18
    python3 transfer_source_to_target.py --SRC features:A.npz --TRG features:B.npz
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --TARGET_LABELS pseudo
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --SOURCE_CLASSES 5
    python3 transfer_source_to_target.py --SRC MNIST --TRG FMNIST --DATA embedded --ANALYSIS certificate

A LeNet (the default model) comes from stage 1; other models come pre-trained; feature files need none.
The certificate takes seconds and is shown first; the published form (its transform learned for the
published objective) follows. Stage 2 need not have run.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from scales import procedures, settings_for
from utils import distributed
from utils.backbones import LENET
from utils.bound import transfer_bound
from utils.certificate import certify, impossible, learn_certificate
from utils.device import choose_device
from utils.entry import stage_entry
from utils.errors import InputError, check_batch_size, require_finite
from utils.features import Features, standardise, with_clusters
from utils.linear_head import HeadSettings, LinearHead, shared_linear_head
from utils.options import (
    CERTIFICATE_FLAGS,
    SOURCE_HEAD_FLAGS,
    TRANSFORM_FLAGS,
    add_analysis_flag,
    add_flag,
    add_model_flags,
    add_setting_flags,
    class_choice,
    class_count,
    one_of,
    override,
    stage_parser,
    whole,
)
from utils.pseudo_labels import (
    EQUAL,
    FREE,
    GIVEN,
    PSEUDO,
    cluster,
    label_agreement,
)
from utils.report import (
    draw_certificate,
    draw_published,
    draw_published_bound,
    print_certificate,
    print_heading,
    print_pseudo_labels,
    print_published,
    print_where,
)
from utils.source_classes import ALL, choose_source_classes
from utils.stage import (
    check_options,
    count_classes,
    find_source,
    find_target,
    open_network,
    open_task,
    variant_label,
)
from utils.storage import (
    ResumePoint,
    digest,
    environment,
    read_result,
    replace_files,
    reusable_result,
    run_folder,
    save_tensors,
    write_result,
)
from utils.summary import is_fine_tuning_of
from utils.task_transform import (
    SETTINGS,
    check_setting,
    final_objective,
    learn_task_transform,
)

VALIDATED = HeadSettings(method="ridge", tau=None)


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
    add_analysis_flag(group, "both")
    add_flag(
        group, "--BOOTSTRAP", type=whole(0, 10_000), default=200, metavar="N",
        help="resamples of the test samples for 95 %% intervals (default 200); 0: no intervals",
    )  # fmt: skip
    add_flag(
        group, "--SHOW_CLASSES", type=whole(0), default=10, metavar="N",
        help="target classes in the table of where the loss comes from (default 10); 0: all of them",
    )  # fmt: skip
    settings = procedures(parser.peek("MODEL", argv)).items()
    for title, flags, defaults in (
        (
            "published form: source head",
            SOURCE_HEAD_FLAGS,
            {name: scale.source_head for name, scale in settings},
        ),
        (
            "published form: transform",
            TRANSFORM_FLAGS,
            {name: scale.transform for name, scale in settings},
        ),
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
    certified, published = (options.ANALYSIS in (part, "both") for part in ("certificate", "published"))
    pseudo = options.TARGET_LABELS == PSEUDO
    if options.TARGET_CLASSES and not pseudo:
        raise InputError("--TARGET_CLASSES is for a target without labels: add --TARGET_LABELS pseudo")
    device = choose_device(options.DEVICE, options.CPUS)

    # ------------------------------------------------------------------ backbone, features of both tasks
    with distributed.process_group(device, options.CPUS):
        network = open_network(options, device)
        target_data = find_target(options, network, options.TARGET_CLASSES)
        source_data = find_source(options, network, target_data.num_classes)
        num_classes = count_classes(options, source_data, target_data)
        check_setting(options.SETTING, *num_classes)
        if published and options.SETTING != "FixedAll":  # which draws no batch
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
        "certificate": asdict(certificate_settings) if certified else None,
        "head": asdict(head_settings) if published else None,
        "transform": asdict(transform_settings) if published else None,
        "tau_measure": scale.tau_measure if published else None,
        "deviation_floor": scale.deviation_floor,
        "bootstrap": options.BOOTSTRAP,
        "network": network.about,
    }
    if pseudo:
        config["pseudo_sizes"] = options.PSEUDO_SIZES
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
    if stored := reusable_result(folder, config, data, options.OVERWRITE):
        print_heading(stored, reused=True)
        if certified:
            print_certificate(stored, options.SHOW_CLASSES)
        if published:
            draw_published_bound(stored, fine_tuned, folder)
            print_published(stored, fine_tuned)
        print_where(stored, folder)
        if pseudo:
            print_pseudo_labels(stored, read_result(labelled_folder))
        return

    source_train, source_test = standardise(source, device, scale.deviation_floor)
    train, test = (source_train, target_train), (source_test, target_test)
    names = (source.class_names, target.class_names)

    def head_of(split: Features, classes: int, settings: HeadSettings, what: str) -> LinearHead:
        return shared_linear_head(
            options.CHECKPOINT_DIR / "heads", split, classes, settings,
            seed=seed, overwrite=options.OVERWRITE, progress=what,
        )  # fmt: skip

    record = {
        "stage": "transfer",
        "source": source.name,
        "target": target.name,
        "model": network.model,
        "setting": options.SETTING,
        "variant": variant,
        "seed": seed,
        "command": f"python3 transfer_source_to_target.py {options.command}",
        "certificate": None,
        "no_certificate": impossible(*num_classes) if certified else None,
        "published": None,
        "pseudo_labels": None,
        "config": config,
        "data": data,
        "environment": environment(device),
        "seconds": seconds,
    }
    if pseudo:
        agreement = label_agreement(target_test.y.cpu(), given) if labelled else None
        record["pseudo_labels"] = {"agreement": agreement}
    tensors = {}
    print_heading(record)

    # ------------------------------------------------------------------------------- the certificate
    if certified and record["no_certificate"] is None:
        heads = [
            head_of(split, task.num_classes, VALIDATED, f"{role} head")
            for split, task, role in (
                (source_train, source, "source"), (target_train, target, "target"),
            )
        ]  # fmt: skip
        seconds["heads"] = sum(head.fit_seconds for head in heads)
        start = time.perf_counter()
        learned = learn_certificate(
            *train, *heads, certificate_settings, setting=options.SETTING, seed=seed
        )
        seconds["certificate"] = time.perf_counter() - start
        start = time.perf_counter()
        certificate = certify(
            learned, heads[1], train, test, names, bootstrap=options.BOOTSTRAP, seed=seed
        )
        seconds["certificate_bound"] = time.perf_counter() - start
        require_finite("the certificate", certificate.quantities())
        record["certificate"] = {
            **certificate.quantities(),
            "weight_decay": {
                "source": heads[0].weight_decay, "target": heads[1].weight_decay,
                "U": learned.weight_decay,
            },
        }  # fmt: skip
        tensors["certificate"] = learned.tensors()
    if certified:
        print_certificate(record, options.SHOW_CLASSES)

    # ---------------------------------------------------------------------------- the published form
    if published:
        head = head_of(source_train, source.num_classes, head_settings, "source head")
        seconds["source_head"] = head.fit_seconds
        resume = ResumePoint(folder / "resume_transform.pt", digest(config, data, seed))
        start = time.perf_counter()
        transform = learn_task_transform(*train, head, transform_settings, seed=seed, resume=resume)
        seconds["transform"] = time.perf_counter() - start
        start = time.perf_counter()
        bound = transfer_bound(
            transform, head, *test,
            tau_measure=scale.tau_measure, bootstrap=options.BOOTSTRAP, seed=seed,
        )  # fmt: skip
        seconds["bound"] = time.perf_counter() - start
        require_finite("transfer", bound.quantities())
        record["published"] = {
            **bound.quantities(),
            "source_head_optimality_gap": head.optimality_gap,
            "iterations": transform.iterations,
            "final_objective": final_objective(transform, transform_settings),
        }
        tensors["transform"] = {**transform.tensors(), "weight": head.weight, "bias": head.bias}
        print_published(record, fine_tuned)

    # ---------------------------------------------------------------------------- report and save
    about = {"source": options.SRC, "target": options.TRG}
    with replace_files(folder) as new:
        for name, content in tensors.items():
            save_tensors(new / f"{name}.safetensors", content, about)
        if record["certificate"]:
            draw_certificate(record, new)
        if published:
            draw_published(record, fine_tuned, transform, *test, names, new)
        write_result(new, options.RESULTS_DIR, record)
    if published:
        resume.clear()
    print_where(record, folder)
    if pseudo:
        print_pseudo_labels(record, read_result(labelled_folder))


if __name__ == "__main__":
    main()
