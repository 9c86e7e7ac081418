# Everything below sets itself up: a virtual environment in .venv with what is needed, nothing elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

LOWEST := .venv-lowest

.PHONY: demo test nightly lowest reliability slurm torch check format bench bench-peers clean

demo: $(READY)
	$(BIN)/ctpatch demo

test: $(READY)
	$(BIN)/python -m pytest -n auto

# The same code with the lowest versions that pyproject.toml allows of all it asks for, in an environment of its own.
# What the tests themselves need is as new as elsewhere.
lowest:
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python scripts/lowest_versions.py fast prepare report evaluate dask > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $(LOWEST)/lowest.txt \
		pytest pytest-xdist hypothesis selenium -e .
	$(LOWEST)/bin/python -m pytest -n auto tests/unit tests/integration

# The same with new examples for the properties; a failure prints the line that repeats it.
nightly: $(READY)
	CTPATCH_HYPOTHESIS=nightly $(BIN)/python -m pytest -n auto

# Injects faults and prints how many. What needs root, strace or a loop device is skipped, with its reason, where there
# is none.
reliability: $(READY)
	CTPATCH_RELIABILITY=full $(BIN)/python -m pytest -n auto tests/reliability -q -s

# The cluster page's scripts on a SLURM of one node: needs root and Debian's slurm-wlm and munge, else it is skipped.
slurm: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check dask-jobqueue
	$(BIN)/python -m pytest tests/slurm -q

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tests of ctpatch.torch run where torch is: this one version, as other builds cost gigabytes. The libraries that
# ctpatch.adapters and ctpatch.lightning work with take half a gigabyte more; where they cannot be had, their tests are
# skipped and say so. torchvision is not among them: it would bring another build of torch.
torch: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -e ".[dev-torch]" \
		|| echo "The libraries of [dev-torch] could not be installed: their tests are skipped"

bench: $(READY)
	$(BIN)/python benchmarks/bench_build.py
	$(BIN)/python benchmarks/bench_read.py
	$(BIN)/python benchmarks/bench_audit.py
	$(BIN)/python benchmarks/bench_engines.py
	$(BIN)/python benchmarks/bench_windows.py --alone

# What users have today, in an environment of its own; one that does not install is left out, and the tables say so.
bench-peers:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -e ".[fast]"
	grep -v '^#' benchmarks/peers.txt | while read peer; do \
		.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 "numpy>=2" "$$peer" \
			|| .venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$$peer" \
			|| echo "left out: $$peer"; \
	done
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 \
		einops h5py matplotlib natsort requests torchmetrics tqdm
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "deepinv>=0.5" \
		|| echo "left out: deepinv"
	.venv-peers/bin/python benchmarks/bench_peers.py
	.venv-peers/bin/python benchmarks/bench_predict.py
	.venv-peers/bin/python benchmarks/bench_windows.py

clean:
	rm -rf $(VENV) $(LOWEST) .venv-peers build dist ctpatch-demo

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $(READY)
