# make run   the three stages for MNIST -> FMNIST on the embedded data
# make run-large   fine-tuning and transfer of an ImageNet network for FMNIST -> MNIST, embedded data
# make report  one page of everything in results/
# make test  the whole test suite
# make test-gpu  the tests that need a GPU, then the tables of docs/speed.md; without a GPU it fails
# make lint  ruff, as .ci/run calls it
# make clean removes the environment; data, checkpoints and results stay
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: run run-large report test test-fast test-gpu lint clean
run: $(VENV)/requirements.stamp
	$(PY) train_source_model.py --SRC MNIST --DATA embedded
	$(PY) finetune_source_model_on_target_task.py --SRC MNIST --TRG FMNIST --DATA embedded
	$(PY) transfer_source_to_target.py --SRC MNIST --TRG FMNIST --BATCH_SIZE 500 --TAU 0.2 --DATA embedded

LARGE := --SRC FMNIST --TRG MNIST --model efficientnet_lite0 --IMAGE_SIZE 96
run-large: $(VENV)/requirements-large.stamp
	$(PY) finetune_source_model_on_target_task.py $(LARGE) --DATA embedded
	$(PY) transfer_source_to_target.py $(LARGE) --DATA embedded

report: $(VENV)/requirements.stamp
	$(PY) report.py

# One process a core, each with one thread: most tests are small.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal
test: $(VENV)/requirements-test.stamp
	$(PYTEST)

test-fast: $(VENV)/requirements-test.stamp
	$(PYTEST) -m "not slow"

NO_GPU := make test-gpu: this machine has no usable CUDA device
test-gpu: $(VENV)/requirements-test.stamp
	@$(PY) -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "$(NO_GPU)")'
	$(PY) -m pytest -m gpu
	$(PY) -m benchmarks.features
	$(PY) -m benchmarks.transport
	$(PY) -m benchmarks.transform
	$(PY) -m benchmarks.relation --PARTS time
	$(PY) -m benchmarks.certificate
	$(PY) -m benchmarks.heads

lint: $(VENV)/requirements-test.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV)

# A stamp is younger than its list of packages when they are installed: later calls start at once.
$(VENV)/requirements.stamp: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -q -r requirements.txt
	touch $@

$(VENV)/requirements-large.stamp: requirements-large.txt $(VENV)/requirements.stamp
	$(PY) -m pip install --disable-pip-version-check -q -r requirements-large.txt
	touch $@

$(VENV)/requirements-test.stamp: requirements-test.txt $(VENV)/requirements-large.stamp
	$(PY) -m pip install --disable-pip-version-check -q -r requirements-test.txt
	touch $@
