import io
import os
import signal
import warnings

import pytest
import torch

from utils.device import use_threads
from utils.entry import stage_entry
from utils.errors import InputError, Remark


def ended(problem: BaseException, capsys) -> tuple[int, str]:
    @stage_entry("stage 9 (test)")
    def main(argv=None):
        raise problem

    with pytest.raises(SystemExit) as stop:
        main([])
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "problem, status, line",
    [
        (InputError("two\nlines"), 2, "error: stage 9 (test): two lines\n"),
        (OSError(28, "No space left on device", "x.pt"), 2, "No space left on device: 'x.pt'\n"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 2, "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted: the same command goes on from there\n"),
    ],
)
def test_every_end_is_one_line(problem, status, line, capsys):
    code, told = ended(problem, capsys)
    assert code == status and line in told and told.count("\n") == 1


def test_an_error_that_no_one_foresaw_is_not_hidden():
    @stage_entry("stage 9 (test)")
    def main(argv=None):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        main([])


def test_sigterm_ends_like_ctrl_c(capsys):
    before = signal.getsignal(signal.SIGTERM)

    @stage_entry("stage 9 (test)")
    def main(argv=None):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 143
    assert capsys.readouterr().err == "stage 9 (test) terminated: the same command goes on from there\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_terminals_show_what_they_can(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="plain letters")
    stream.write("MNIST → é τ \udcff")
    stream.flush()
    shown = stream.buffer.getvalue().decode(encoding)
    wanted = {"utf-8": "MNIST → é τ ?", "ascii": "MNIST -> e tau ?"}
    assert shown == wanted.get(encoding, "MNIST -> é tau ?")


def test_threads_are_those_that_were_asked_for():
    before = torch.get_num_threads()
    try:
        use_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        use_threads(before)


class Full(io.StringIO):
    """Stands for stdout on a full disk, or a pipe whose reader has gone."""

    def __init__(self, error: OSError):
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    "error, status", [(OSError(28, "No space left on device"), 2), (BrokenPipeError(), None)]
)
def test_output_that_cannot_be_written_costs_no_result(error, status, monkeypatch, capsys):
    done = []

    @stage_entry("stage 9 (test)")
    def main(argv=None):
        print("a table")
        done.append("saved")

    monkeypatch.setattr("sys.stdout", Full(error))
    if status is None:
        main([])
    else:
        with pytest.raises(SystemExit) as stop:
            main([])
        assert stop.value.code == status and "results are kept" in capsys.readouterr().err
    assert done == ["saved"]


def test_warnings_and_remarks_are_told_once_a_run(capsys):
    @stage_entry("stage 9 (test)")
    def main(argv=None):
        for _ in range(2):
            with warnings.catch_warnings():  # after which Python forgets what it has shown
                warnings.warn("something\nto know", stacklevel=1)
                warnings.warn("3 classes", Remark, stacklevel=1)

    for _ in range(2):
        main([])
        assert capsys.readouterr().err == "warning: something to know\nremark: 3 classes\n"
