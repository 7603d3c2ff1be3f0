import warnings

import pytest

from utils.entry import stage_entry
from utils.errors import InputError
from utils.options import (
    HEAD_FLAGS,
    TRANSFORM_FLAGS,
    add_model_flags,
    add_setting_flags,
    override,
    stage_parser,
)
from utils.procedures.small import IMPROVED, PROCEDURES, PUBLISHED, settings_for


def parser():
    made = stage_parser("A test.", "test.py", with_target=True)
    add_setting_flags(made, "head", HEAD_FLAGS, PROCEDURES, "target_head")
    return made


BASE = ["--SRC", "MNIST", "--TRG", "FMNIST"]


def test_flags_in_upper_and_lower_case():
    upper = parser().parse_args([*BASE, "--TAU", "0.3", "--PROCEDURE", "Published"])
    lower = parser().parse_args(
        ["--src", "MNIST", "--trg", "FMNIST", "--tau", "0.3", "--procedure", "published"]
    )
    assert vars(upper) == vars(lower)
    assert upper.TAU == 0.3 and upper.PROCEDURE == "published"


@pytest.mark.parametrize(
    "argv, complaint",
    [
        (["--SRC", "MNIST"], "--TRG"),
        ([*BASE, "--TAU", "0"], "--TAU.*positive number from 1e-12 to 1e\\+09, not '0'"),
        ([*BASE, "--TAU", "-0.2"], "--TAU.*not '-0.2'"),
        ([*BASE, "--TAU", "nan"], "--TAU.*not 'nan'"),
        ([*BASE, "--LEARNING_RATE", "inf"], "--LEARNING_RATE.*not 'inf'"),
        ([*BASE, "--BATCH_SIZE", "2.5"], "--BATCH_SIZE.*whole number from 1 to 1000000000, not '2.5'"),
        ([*BASE, "--EPOCHS", "0"], "--EPOCHS.*not '0'"),
        ([*BASE, "--SEED", "-1"], "--SEED.*not '-1'"),
        ([*BASE, "--DATA", "partial"], "--DATA.*one of auto, full, embedded, not 'partial'"),
        ([*BASE, "--PROCEDURE", "new"], "--PROCEDURE.*one of improved, published"),
        ([*BASE, "--OVERWRITE", "maybe"], "--OVERWRITE.*True or False"),
        ([*BASE, "--TAO", "0.2"], "unknown arguments: --TAO 0.2"),
    ],
)
def test_bad_flags_are_named(argv, complaint):
    with pytest.raises(InputError, match=complaint):
        parser().parse_args(argv)


@pytest.mark.parametrize(
    "words, expected", [([], False), (["--OVERWRITE"], True), (["--OVERWRITE", "False"], False)]
)
def test_false_means_false(words, expected):
    assert parser().parse_args([*BASE, *words]).OVERWRITE is expected


def test_help_shows_the_value_of_each_procedure(capsys):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "[improved —, published 501]" in shown
    assert "[improved by validation, published 0.2]" in shown


def test_a_flag_is_peeked_at_in_every_spelling():
    for words in (["--model", "clip"], ["--MODEL=clip"], ["MODEL", "clip"]):
        parser = stage_parser("A test.", "test.py", with_target=True)
        add_model_flags(parser, "lenet")
        assert parser.peek("MODEL", words) == "clip"


def test_given_flags_override_their_fields():
    options = parser().parse_args([*BASE, "--TAU", "0.3", "--EPOCHS", "7"])
    changed = override(PUBLISHED.target_head, HEAD_FLAGS, options)
    assert (changed.tau, changed.epochs, changed.batch_size) == (
        0.3,
        7,
        PUBLISHED.target_head.batch_size,
    )
    with pytest.raises(InputError, match="--EPOCHS has no effect"):
        override(IMPROVED.target_head, HEAD_FLAGS, options)


def test_every_flag_has_its_field():
    for flag in TRANSFORM_FLAGS:
        assert hasattr(PUBLISHED.transform, flag.field)


def test_published_settings_are_those_of_the_released_code():
    plain = settings_for("published", "MNIST", "FMNIST")
    assert (plain.training.epochs, plain.training.batch_size, plain.training.learning_rate) == (
        31,
        256,
        1e-3,
    )
    assert (plain.target_head.penalty_weight, plain.source_head.penalty_weight) == (1e5, 1e10)
    assert (plain.transform.iterations, plain.transform.label_weight) == (1001, 1e8)
    usps = settings_for("published", "USPS", "USPS")
    assert (usps.target_head.learning_rate, usps.target_head.epochs, usps.target_head.batch_size) == (
        1e-3,
        1001,
        100,
    )
    assert (usps.source_head.learning_rate, usps.source_head.epochs) == (5e-3, 2001)


def test_bad_input_is_one_line_and_status_2(capsys):
    @stage_entry("stage 9")
    def main(argv=None):
        warnings.warn("something\nto know", stacklevel=1)
        raise InputError("the file\nis bad")

    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "warning: something to know\nerror: stage 9: the file is bad\n"


def test_an_interrupt_says_how_to_go_on(capsys):
    @stage_entry("stage 9")
    def main(argv=None):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 130
    assert "stage 9 interrupted: the same command goes on" in capsys.readouterr().err
