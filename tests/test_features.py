import contextlib

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from utils.errors import InputError
from utils.features import (
    Features,
    Standardiser,
    Task,
    TaskRequest,
    absolute_name,
    classifier_of_feature_file,
    expand_feature_files,
    load_task,
    require_same_labels,
    same_images,
    standardise,
    task_of_feature_file,
    task_slug,
)

CPU = torch.device("cpu")


def test_standardising_equals_scikit_learn(generator):
    x = 5 + 3 * torch.randn(200, 6, generator=generator)
    x[:, 2] = 0.1  # no variance: centred and left unscaled
    expected = StandardScaler().fit(x.double().numpy()).transform(x.double().numpy())
    np.testing.assert_allclose(Standardiser.fit(x)(x).numpy(), expected, atol=1e-5)


def test_a_floor_leaves_nearly_constant_coordinates_unscaled(generator):
    x = torch.randn(1000, 5, generator=generator)
    x[:, 3] = 0
    x[0, 3] = 1e-3  # a unit that fires once: deviation 3e-5
    plain, floored = Standardiser.fit(x), Standardiser.fit(x, floor=0.01)
    assert plain(x)[:, 3].abs().max() > 30
    assert floored(x)[:, 3].abs().max() < 0.01
    others = [0, 1, 2, 4]
    assert torch.equal(plain(x)[:, others], floored(x)[:, others])
    assert torch.isfinite(Standardiser.fit(torch.ones(4, 2), floor=0.01)(torch.ones(4, 2))).all()


def test_each_task_is_standardised_by_its_own_training_split(generator):
    train = Features(2 + torch.randn(50, 3, generator=generator), torch.zeros(50, dtype=torch.long))
    test = Features(torch.randn(20, 3, generator=generator), torch.zeros(20, dtype=torch.long))
    task = Task(name="t", train=train, test=test, num_classes=1, class_names=("a",), provenance={})
    scaled_train, scaled_test = standardise(task, CPU)
    assert scaled_train.x.mean(0).abs().max() < 1e-5
    deviation = train.x.std(0, correction=0)
    torch.testing.assert_close(scaled_test.x, (test.x - train.x.mean(0)) / deviation)


def test_a_feature_file_becomes_a_task(feature_files):
    task = task_of_feature_file(feature_files[0])
    assert (task.num_classes, task.feature_dim, len(task.train), len(task.test)) == (3, 5, 90, 45)
    assert task.name == task_slug(feature_files[0]) == "features-source"
    assert task.train.x.dtype == torch.float32 and task.train.y.dtype == torch.int64
    assert task.provenance["origin"] == "features"


GOOD = {
    "x_train": np.random.default_rng(0).normal(size=(6, 2)),
    "y_train": np.arange(6) % 3,
    "x_test": np.random.default_rng(1).normal(size=(3, 2)),
    "y_test": np.arange(3),
}


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"y_test": None}, "y_test are missing"),
        ({"x_train": np.zeros((5, 2))}, "x_train must be"),
        ({"x_test": np.zeros((3, 4))}, "x_train has 2 features and x_test 4"),
        ({"y_train": np.array(list("abcabc"))}, "the same classes: only y_train has a, b, c; only y_te"),
        (
            {"y_train": np.arange(6) % 3 - 1},
            "y_train holds -1 beside 0, 1, 2: where -1 means a sample w",
        ),
        ({"y_train": np.array([0, 2, 0, 2, 0, 2])}, "must hold the same classes: only y_test has 1$"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 10**12])}, "classes: only y_train has 1000000000000$"),
        (
            {"y_test": np.array([0, 1, 3])},
            "must hold the same classes: only y_train has 2; only y_test h",
        ),
        ({"y_train": np.arange(6) % 3 + 0.5}, r"y_train\[0\] = 0\.5 is no whole number: .* or probabil"),
        ({"y_train": np.array([0, 1, 2, np.nan, 1, 2])}, r"y_train\[3\] = nan is no label"),
        ({"y_test": np.array([0, np.inf, 2])}, r"y_test\[1\] = inf is no label"),
        ({"y_test": np.array(["a", " ", "b"])}, r"y_test\[1\] is empty"),
        (
            {"y_train": np.array([{}] * 6, dtype=object)},
            "y_train holds Python objects, which may run cod",
        ),
        (
            {"y_train": np.zeros(6, complex)},
            "y_train must be classes, as numbers or strings, not complex",
        ),
        ({"y_train": np.zeros(6, "datetime64[s]")}, "y_train must be classes"),
        (
            {"y_train": np.full((6, 3), 1 / 3)},
            r"y_train has 3 columns, and row 0 is not one-hot \(0\.333",
        ),
        (
            {"y_train": np.vstack([np.eye(3)] * 2) + np.eye(6, 3, k=-3)},
            r"row 3 is not one-hot \(2, 0, 0\)",
        ),
        (
            {"y_train": np.array([[1, 1, 0]] * 6)},
            r"row 0 is not one-hot \(1, 1, 0\): each .* several label",
        ),
        (
            {"y_train": np.array([["a", "b"]] * 6)},
            r"y_train must be \(n,\) or one-hot rows \(n, K\), not",
        ),
        ({"y_train": np.zeros((6, 1, 2))}, r"y_train \(n,\), not \(6, 2\) and \(6, 1, 2\)"),
        ({"y_train": np.zeros((3, 2))}, r"y_train \(n,\), not \(6, 2\) and \(3, 2\)"),
        ({"y_train": np.array(3)}, r"y_train \(n,\), not"),
        (
            {"x_train": np.zeros((6, 2, 7, 7))},
            r"must be \(n, d\), not \(6, 2, 7, 7\): average or flatten",
        ),
        ({"x_train": np.zeros((6, 2), "V2")}, r"x_train must be numbers, not \|V2 \(bfloat16\?"),
        ({"x_train": None, "y_train": None, "x_test": None, "y_test": None, "z": np.ones(2)}, "holds z"),
        ({"x_test": np.array([[0, 1], [np.nan, 0], [0, 0]])}, "1 of 3 test samples have NaN"),
        ({"x_train": np.full((6, 2), np.inf)}, "6 of 6 training samples have NaN or infinite"),
        ({"x_train": np.array([["a", "b"]] * 6)}, "x_train must be numbers"),
        ({"x_train": np.array([[{}, {}]] * 6, dtype=object)}, "not a readable"),
    ],
)
def test_unusable_feature_files_are_named(tmp_path, change, complaint):
    arrays = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=rf"bad\.npz.*{complaint}"):
        task_of_feature_file(f"features:{tmp_path / 'bad.npz'}")


def saved(tmp_path, **arrays) -> str:
    np.savez(tmp_path / "file.npz", **{k: v for k, v in {**GOOD, **arrays}.items() if v is not None})
    return f"features:{tmp_path / 'file.npz'}"


CLASSES = np.arange(6) % 3
TEST_CLASSES = np.arange(3)


@pytest.mark.parametrize(
    "form, names",
    [
        (lambda y: y, ("0", "1", "2")),
        *((lambda y, kind=kind: y.astype(kind), ("0", "1", "2")) for kind in ("u1", "i2", ">i8", "u8")),
        *((lambda y, kind=kind: y.astype(kind), ("0", "1", "2")) for kind in ("f2", ">f8", "f4", "g")),
        (lambda y: y[:, None], ("0", "1", "2")),
        (lambda y: y[None].astype(float), ("0", "1", "2")),  # as MATLAB saves it
        (lambda y: y + 1, ("1", "2", "3")),
        (lambda y: y - 7, ("-7", "-6", "-5")),
        (lambda y: y.astype("u8") + np.uint64(2**63), tuple(str(2**63 + k) for k in range(3))),
        (lambda y: np.array(["ant", "bee", "cat"])[y], ("ant", "bee", "cat")),
        (lambda y: np.array(["ant", "bee", "cat"])[y][:, None], ("ant", "bee", "cat")),
        (lambda y: np.array([b"ant", b"bee", "zoë".encode()])[y], ("ant", "bee", "zoë")),
        (lambda y: np.array(["2", "9", "10"])[y], ("2", "9", "10")),  # as numbers, not as words
        (lambda y: np.array(["10", "9", "x"])[y], ("10", "9", "x")),
        (lambda y: np.eye(3)[y], ("0", "1", "2")),
        (lambda y: np.eye(3, dtype=bool)[y], ("0", "1", "2")),
        (lambda y: np.eye(3, dtype="u1")[y], ("0", "1", "2")),
    ],
)
def test_labels_in_the_forms_that_people_save(tmp_path, form, names):
    task = task_of_feature_file(saved(tmp_path, y_train=form(CLASSES), y_test=form(TEST_CLASSES)))
    assert task.train.y.tolist() == CLASSES.tolist() and task.test.y.tolist() == TEST_CLASSES.tolist()
    assert task.class_names == names and task.num_classes == 3 and task.train.y.dtype == torch.int64


@pytest.mark.parametrize(
    "two, names",
    [
        ([-1, 1], ("-1", "1")),
        ([-1.0, 1.0], ("-1", "1")),
        ([False, True], ("False", "True")),
        (["no", "yes"], ("no", "yes")),
    ],
)
def test_two_classes_in_the_forms_that_people_save(tmp_path, two, names):
    y = {"y_train": np.array(two)[CLASSES % 2], "y_test": np.array(two)[TEST_CLASSES % 2]}
    task = task_of_feature_file(saved(tmp_path, **y))
    assert task.train.y.tolist() == (CLASSES % 2).tolist() and task.class_names == names


def test_names_that_differ_by_their_unicode_form_are_one_class(tmp_path):
    y = {"y_train": np.array(["é", "e\u0301", "a"])[CLASSES], "y_test": np.array(["é", "é", "a"])}
    task = task_of_feature_file(saved(tmp_path, **y))
    assert task.class_names == ("a", "é") and task.train.y.tolist() == [1, 1, 0, 1, 1, 0]


def test_a_gap_in_the_labels_is_said(tmp_path):
    numbers = np.array([2, 4, 7])
    gap = {"y_train": numbers[CLASSES], "y_test": numbers[TEST_CLASSES]}
    with pytest.warns(
        UserWarning, match=r"file\.npz: the labels 2, 4, 7 are taken for 3 classes; of the"
    ):
        task = task_of_feature_file(saved(tmp_path, **gap))
    assert task.class_names == ("2", "4", "7") and task.train.y.tolist() == CLASSES.tolist()
    one_hot = {"y_train": np.eye(8)[gap["y_train"]], "y_test": np.eye(8)[gap["y_test"]]}
    with pytest.warns(UserWarning, match="the labels 2, 4, 7 are taken for 3 classes"):
        assert task_of_feature_file(saved(tmp_path, **one_hot)).class_names == ("2", "4", "7")


def test_names_of_the_classes_in_a_feature_file(tmp_path):
    names = np.array(["ant", "bee", "cat"])
    assert task_of_feature_file(saved(tmp_path, class_names=names)).class_names == tuple(names)
    shifted = {"y_train": CLASSES + 1, "y_test": TEST_CLASSES + 1}
    assert task_of_feature_file(saved(tmp_path, **shifted, class_names=names)).class_names == tuple(
        names
    )
    more = np.array(["zero", *names])  # the labels are places in a longer list
    found = task_of_feature_file(saved(tmp_path, **shifted, class_names=more))
    assert found.class_names == tuple(names)
    for unusable in (names[:2], np.array(["a", "a", "b"]), np.arange(3)):
        with pytest.warns(UserWarning, match="class_names is not used"):
            assert task_of_feature_file(saved(tmp_path, class_names=unusable)).class_names[0] == "0"
    words = {"y_train": names[CLASSES], "y_test": names[TEST_CLASSES]}
    given = task_of_feature_file(saved(tmp_path, **words, class_names=np.array(["x", "y", "z"])))
    assert given.class_names == tuple(names)
    # Beside a classifier they are the names of its classes.
    of_head = saved(tmp_path, class_names=names, weight=np.ones((3, 2)), bias=np.ones(3))
    assert task_of_feature_file(of_head).class_names == ("0", "1", "2")


@pytest.mark.parametrize("values", [np.arange(60) * 3, np.array([f"img_{k}.png" for k in range(60)])])
def test_values_and_names_of_samples_are_no_classes(tmp_path, values):
    with pytest.raises(InputError, match="y_train holds 60 different labels in 60 samples: they look"):
        task_of_feature_file(
            saved(
                tmp_path,
                x_train=np.ones((60, 2)),
                y_train=values,
                x_test=np.ones((60, 2)),
                y_test=values,
            )
        )
    few = {"y_train": values[np.arange(60) % 30], "y_test": values[:30]}  # two samples of each
    x = {"x_train": np.ones((60, 2)), "x_test": np.ones((30, 2))}
    with contextlib.nullcontext() if values.dtype.kind == "U" else pytest.warns(UserWarning):
        assert task_of_feature_file(saved(tmp_path, **x, **few)).num_classes == 30


@pytest.mark.parametrize(
    "form",
    [
        np.asfortranarray,
        lambda x: x.astype(">f8"),
        lambda x: x.astype(np.longdouble),
        lambda x: x[..., None, None],
        lambda x: x[..., None],
    ],
)
def test_features_in_the_forms_that_people_save(tmp_path, form):
    plain = task_of_feature_file(saved(tmp_path))
    found = task_of_feature_file(
        saved(tmp_path, x_train=form(GOOD["x_train"]), x_test=form(GOOD["x_test"]))
    )
    assert torch.equal(found.train.x, plain.train.x) and found.train.x.is_contiguous()
    assert found.provenance == plain.provenance
    half = task_of_feature_file(saved(tmp_path, x_train=GOOD["x_train"].astype(np.float16)))
    torch.testing.assert_close(half.train.x, plain.train.x, atol=1e-3, rtol=1e-3)


def test_names_of_arrays_in_any_case(tmp_path):
    capitals = {"x_train": None, "x_test": None, "X_train": GOOD["x_train"], "X_test": GOOD["x_test"]}
    found = task_of_feature_file(saved(tmp_path, **capitals))
    assert found.provenance == task_of_feature_file(saved(tmp_path)).provenance
    both = saved(tmp_path, X_train=np.zeros((1, 1)))
    assert task_of_feature_file(both).provenance == found.provenance


@pytest.mark.parametrize(
    "names", [("x_train", "y_train"), ("x", "y"), ("X", "y"), ("features", "labels")]
)
def test_a_file_without_a_test_split(tmp_path, names):
    only = {**dict.fromkeys(GOOD), names[0]: GOOD["x_train"], names[1]: GOOD["y_train"]}
    task = task_of_feature_file(saved(tmp_path, **only), needs_test=False)
    assert len(task.train) == 6 and len(task.test) == 0 and task.num_classes == 3
    assert "test" not in task.provenance
    with pytest.raises(InputError, match="x_test, y_test are missing"):
        task_of_feature_file(saved(tmp_path, **only))
    # A test split without labels is none, one with labels is read as ever.
    assert len(task_of_feature_file(saved(tmp_path, y_test=None), needs_test=False).test) == 0
    whole = saved(tmp_path)
    assert task_of_feature_file(whole, needs_test=False).provenance == (
        task_of_feature_file(whole).provenance
    )
    with pytest.raises(InputError, match=r"x_train, y_train are missing .it holds y_test"):
        task_of_feature_file(saved(tmp_path, x_train=None, y_train=None, x_test=None), needs_test=False)


def test_files_of_other_formats_are_told_what_to_be(tmp_path):
    torch.save({"x_train": torch.ones(2)}, tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", np.ones(3))
    (tmp_path / "c.csv").write_text("1,2\n")
    for name in ("a.pt", "b.npy", "c.csv"):
        with pytest.raises(
            InputError, match=rf"{name}.*reads NumPy's \.npz, as np\.savez .* not \.{name[2:]}"
        ):
            task_of_feature_file(f"features:{tmp_path / name}")
    with pytest.raises(InputError, match=r"d\.npy is not a readable .*: no such file$"):
        task_of_feature_file(f"features:{tmp_path / 'd.npy'}")


def test_other_names_of_classes_are_other_data_of_the_same_samples(tmp_path):
    plain = task_of_feature_file(saved(tmp_path)).provenance
    named = task_of_feature_file(saved(tmp_path, class_names=np.array(["a", "b", "c"]))).provenance
    assert plain["sha256"] == named["sha256"] and plain["classes"] != named["classes"]


def test_a_file_that_is_no_archive_is_said_without_advice_to_run_it(tmp_path):
    (tmp_path / "junk.npz").write_bytes(b"something else")
    for needs_test, of in ((True, " of x_train, y_train, x_test, y_test"), (False, "")):
        with pytest.raises(InputError) as problem:
            task_of_feature_file(f"features:{tmp_path / 'junk.npz'}", needs_test=needs_test)
        assert str(problem.value) == (
            f"{tmp_path / 'junk.npz'} is not a readable .npz{of}: it is no such archive"
        )


def test_all_files_of_a_folder_in_any_case(tmp_path):
    for name in ("b.npz", "A.NPZ", "c.Npz", "d.txt"):
        (tmp_path / name).touch()
    expected = [f"features:{tmp_path / name}" for name in ("A.NPZ", "b.npz", "c.Npz")]
    assert expand_feature_files(f"features:{tmp_path}") == expected


def test_the_same_labels_in_any_form_are_the_same(tmp_path):
    files = {"a": CLASSES, "b": np.array(["u", "v", "w"])[CLASSES], "c": np.eye(3)[CLASSES]}
    for name, y in files.items():
        np.savez(tmp_path / f"{name}.npz", x=np.ones((6, 2)), y=y)
    np.savez(tmp_path / "d.npz", x=np.ones((6, 2)), y=CLASSES[::-1])
    np.savez(tmp_path / "e.npz", x=np.ones((5, 2)), y=CLASSES[:5])
    np.savez(tmp_path / "f.npz", **GOOD)
    np.savez(tmp_path / "g.npz", **{**GOOD, "y_test": TEST_CLASSES[::-1]})
    np.savez(tmp_path / "h.npz", x=np.ones((6, 2)))

    def names(*stems: str) -> list[str]:
        return [f"features:{tmp_path / stem}.npz" for stem in stems]

    require_same_labels(names("a", "b", "c", "f"))
    for stems, complaint in (
        ("bd", r"b\.npz and .*d\.npz are not of the same samples: y_train\[0\] is u and 2, and 4 of 6"),
        (
            "abe",
            r"a\.npz and .*e\.npz are not .*: y_train has 6 labels and 5; each row must be of the same",
        ),
        ("afg", r"f\.npz and .*g\.npz are not of the same samples: y_test\[0\] is 0 and 2"),
        ("ah", r"h\.npz: the arrays y_train are missing"),
    ):
        with pytest.raises(InputError, match=complaint):
            require_same_labels(names(*stems))


HEAD = {
    "weight": np.random.default_rng(2).normal(size=(4, 2)),  # of other classes than y_train's
    "bias": np.arange(4),
    "class_names": np.array(["ant", "bee", "cat", "ünï"]),
}


def test_a_feature_file_with_a_classifier_of_its_own(tmp_path):
    name = f"features:{tmp_path / 'file.npz'}"
    np.savez(tmp_path / "file.npz", **GOOD, **HEAD)
    found = classifier_of_feature_file(name)
    assert found.weight.dtype == found.bias.dtype == torch.float32
    np.testing.assert_allclose(found.weight, HEAD["weight"], rtol=1e-6)
    assert found.bias.tolist() == [0, 1, 2, 3]
    assert found.class_names == ("ant", "bee", "cat", "ünï")
    assert task_of_feature_file(name).num_classes == 3  # the task is as it is without

    parts = {"x_train": GOOD["x_train"], "weight": HEAD["weight"], "bias": HEAD["bias"]}
    np.savez(tmp_path / "file.npz", **parts)
    assert classifier_of_feature_file(name).class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    "change, complaint",
    [
        (
            {"weight": None, "bias": None},
            r"the arrays weight, bias are missing: a classifier of its own",
        ),
        ({"weight": None}, r"the arrays weight are missing: .*weight \(K, d\) and bias \(K,\)"),
        ({"bias": None}, "the arrays bias are missing"),
        ({"x_train": None}, "the arrays x_train are missing$"),
        ({"weight": np.zeros((4, 3))}, r"of 2 features .*must be \(K, 2\) .*not \(4, 3\) and \(4,\)"),
        ({"weight": np.zeros(4)}, r"must be \(K, 2\) .*not \(4,\)"),
        ({"weight": np.array(4.0)}, r"must be \(K, 2\) .*not \(\)"),
        ({"bias": np.zeros(3)}, r"its bias \(K,\), not \(4, 2\) and \(3,\)"),
        ({"weight": np.full((4, 2), np.nan)}, "NaN or infinite"),
        ({"bias": np.full(4, 1e300)}, "NaN or infinite"),
        ({"weight": np.zeros((1, 2)), "bias": np.zeros(1)}, "has 1 class"),
        ({"weight": np.zeros((0, 2)), "bias": np.zeros(0)}, "has 0 class"),
        ({"weight": np.array([["a", "b"]] * 4)}, "weight must be numbers, not <U1"),
        ({"bias": np.zeros(4, complex)}, "bias must be numbers, not complex128"),
        ({"bias": np.array([{}] * 4, dtype=object)}, "not a readable"),
        ({"class_names": np.array(["a", "b"])}, "there are 2 class names for 4 classes"),
        ({"class_names": np.arange(4)}, r"class_names must be \(K,\) strings, not \(4,\) of int64"),
        ({"class_names": np.array("abcd")}, r"class_names must be \(K,\) strings, not \(\)"),
        ({"x_train": np.zeros(6)}, "x_train must be"),
    ],
)
def test_unusable_classifiers_in_feature_files_are_named(tmp_path, change, complaint):
    arrays = {**GOOD, **HEAD, **change}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=rf"bad\.npz.*{complaint}") as caught:
        classifier_of_feature_file(f"features:{tmp_path / 'bad.npz'}")
    assert "\n" not in str(caught.value)


def test_feature_files_that_are_none(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    for name in ("text.npz", "absent.npz"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            task_of_feature_file(f"features:{tmp_path / name}")


def test_a_data_set_needs_a_backbone(tmp_path):
    with pytest.raises(InputError, match="give the target as features:PATH"):
        load_task("MNIST", None, TaskRequest(tmp_path, tmp_path, "embedded"), role="target")


def test_names_from_any_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_name("features:a/B.npz") == f"features:{tmp_path}/a/B.npz"
    assert absolute_name("folder:birds") == f"folder:{tmp_path}/birds"
    assert absolute_name("MNIST") == "MNIST"


def test_what_makes_two_tasks_the_same_images():
    one = {"origin": "folder", "sha256": "a", "path": "b", "train": 3}
    assert same_images(one, {**one, "train": 4})
    assert not same_images(one, {**one, "sha256": "c"})
    assert same_images(one, {**one, "path": "c"})
    assert same_images({"sha256": "a"}, {"sha256": "a"})
