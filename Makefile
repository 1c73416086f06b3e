# Every way in. `make` sets everything up and runs ATOM on embedded data.
PYTHON  ?= python3
PROFILE ?= quick
PORT    ?= 8888
# Tests have one thread each: as many at once as there are cores, those of a file in one process.
PARALLEL ?= -n auto --dist loadfile
# Not by abspath, which takes a path with spaces for several; Python knows what ~ is.
override ATOM_DATA := $(if $(filter /% ~%,$(firstword $(ATOM_DATA))),$(ATOM_DATA),$(CURDIR)/$(or $(ATOM_DATA),data))

export ATOM_DATA

ifdef ATOM_SETS
override ATOM_SETS := $(abspath $(ATOM_SETS))
export ATOM_SETS
endif

BIN  := .venv/bin
READY := .venv/ready
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# TORCH_INDEX=URL takes torch from there, a CPU build say, and leaves out what PyPI's build brings.
OF_TORCH := ^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==

.DEFAULT_GOAL := quick
.PHONY: quick help reports quickstart table1 cross-architecture ablation power cost nas gallery disagreements learning-curve your-data published-sets settings ddranking site data test golden status verify asked torture bench gpu lab notebooks lint lock clean

quick: $(READY)  ## ATOM on scikit-learn's digits, on the CPU: notebooks, table, figures, distilled sets in reports/quick/
	$(BIN)/python -m atomlib run --profile quick
	@$(BIN)/python -m atomlib site

help:  ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  settings: PROFILE=$$(cd notebooks/profiles && ls | sed 's/.yaml//' | paste -sd'|' -), ATOM_DATA=folder with data, PYTHON=python3, TORCH_INDEX=index of another torch build"
	@echo "  where cells run: WORKERS=processes, or ENGINE=ray RAY_ADDRESS=host:port (notebooks/README.md)"

reports: $(READY)  ## all notebooks of PROFILE=..., continuing where a run was cut
	$(BIN)/python -m atomlib run --profile "$(PROFILE)"

quickstart: $(READY)  ## the method on one data set, equations beside the code
	$(BIN)/python -m atomlib run 00_quickstart --profile "$(PROFILE)"

table1: $(READY)  ## the main table of PROFILE=... alone
	$(BIN)/python -m atomlib run 01_main_table --profile "$(PROFILE)"

cross-architecture: $(READY)  ## one distilled set, five networks
	$(BIN)/python -m atomlib run 02_cross_architecture --profile "$(PROFILE)"

ablation: $(READY)  ## the terms of the loss, on and off
	$(BIN)/python -m atomlib run 03_ablation --profile "$(PROFILE)"

power: $(READY)  ## spatial and channel powers
	$(BIN)/python -m atomlib run 04_power --profile "$(PROFILE)"

cost: $(READY)  ## seconds an iteration and peak memory, by method and IPC
	$(BIN)/python -m atomlib run 05_cost --profile "$(PROFILE)"

nas: $(READY)  ## the search over 720 networks, ranked by proxy
	$(BIN)/python -m atomlib run 06_nas --profile "$(PROFILE)"

gallery: $(READY)  ## the distilled images
	$(BIN)/python -m atomlib run 07_gallery --profile "$(PROFILE)"

disagreements: $(READY)  ## the text's settings against the official code's
	$(BIN)/python -m atomlib run 08_disagreements --profile "$(PROFILE)"

learning-curve: $(READY)  ## accuracy and loss over iterations
	$(BIN)/python -m atomlib run 09_learning_curve --profile "$(PROFILE)"

your-data: $(READY)  ## a folder of your images, distilled (parameters in notebooks/10_your_data.ipynb)
	$(BIN)/python -m atomlib run 10_your_data --profile "$(PROFILE)"

published-sets: $(READY)  ## distilled sets of other authors, read and judged (ATOM_SETS=folder, PROFILE=published_sets)
	$(BIN)/python -m atomlib run 11_published_sets --profile "$(PROFILE)"

settings: $(READY)  ## settings chosen on held-out training images, confirmed on the test images
	$(BIN)/python -m atomlib run 12_settings --profile "$(PROFILE)"

ddranking: $(READY)  ## DD-Ranking's own package trains on what we hand on; installed apart, into build/
	$(PYTHON) -m venv build/ddranking
	echo "$$(echo $(abspath .venv)/lib/python3*/site-packages)" > "$$(echo build/ddranking/lib/python3*/site-packages)/atomlib.pth"
	build/ddranking/bin/python -m pip install --quiet --disable-pip-version-check --no-deps ddranking timm huggingface_hub
	build/ddranking/bin/python -m pytest tests/published/test_ddranking.py

site: $(READY)  ## the reports as a static site in build/site/, to be read offline
	@$(BIN)/python -m atomlib site

data: $(READY)  ## download DATASET=cifar10|cifar100|tinyimagenet into ATOM_DATA and check it
	$(BIN)/python -m atomlib data "$(or $(DATASET),cifar10)"

test: $(READY)  ## everything that guards the package: style, oracles, notebooks (nbval)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest $(PARALLEL)
	@# On a copy, so that nothing is read from results of before, nor a user's results touched.
	rm -rf build/nbval && mkdir -p build/nbval/reports && cp -R notebooks build/nbval/
	ln -s ../../../reports/quick build/nbval/reports/quick
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(BIN)/python -m pytest $(PARALLEL) --nbval-lax --nbval-current-env build/nbval/notebooks

golden: $(READY)  ## write tests/golden/ anew where a revision was raised (and nowhere else)
	@$(BIN)/python -m tests.test_golden

status: $(READY)  ## what reports/PROFILE holds: done, running, interrupted, stale, damaged, and why
	@$(BIN)/python -m atomlib status "reports/$(PROFILE)"

verify: asked $(READY)  ## make RESULT=reports/.../results/....json again from its record alone, and compare
	$(BIN)/python -m atomlib verify "$(RESULT)"

asked:
	@test -n "$(RESULT)" || { echo "error: RESULT is not given; allowed: make verify RESULT=reports/quick/results/NAME.json" >&2; exit 1; }

torture: $(READY)  ## kills, full disks, damaged files, random settings, lost cluster nodes: as many as reports/README.md counts
	ATOM_TORTURE=1 $(BIN)/python -m pytest -m torture

gpu: $(READY)  ## on a machine with a GPU: its tests, a profiled step, bench, cifar10-gpu; one file to send back
	$(BIN)/python -m tests.gpu_report

bench: $(READY)  ## time and memory of a step and an evaluation beside plain loops, in one run, into reports/bench/
	$(BIN)/python -m tests.bench

lab: $(READY)  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --port $(PORT) --LabApp.default_url=/lab/tree/notebooks

notebooks: $(READY)  ## run the notebooks at their defaults and store the outputs that `make test` compares with
	cd notebooks && TQDM_DISABLE=1 ../$(BIN)/jupyter nbconvert --to notebook --inplace --execute [0-9]*.ipynb

lint: $(READY)  ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## pin all versions anew (needs uv)
	uv pip compile --universal --python-version 3.11 --extra test --no-header --no-annotate -q --upgrade pyproject.toml -o requirements.lock

clean:  ## remove the environment and what failed runs left
	rm -rf .venv build

# Rebuilt from nothing when the lock changes, so that it never holds a mixture.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("error: python is %d.%d; allowed: 3.11 to 3.14 (set PYTHON=...)" % sys.version_info[:2] if not (3, 11) <= sys.version_info[:2] <= (3, 14) else 0)'
	@$(PYTHON) -c 'import platform, sys; sys.exit("error: python is for macOS on Intel, for which there is no torch of this version; allowed: Apple silicon with a python for it (set PYTHON=...)" if (platform.system(), platform.machine()) == ("Darwin", "x86_64") else 0)'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "error: python cannot make an environment; allowed: one that can (Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
ifdef TORCH_INDEX
	$(PIP) --no-deps --index-url "$(TORCH_INDEX)" $$(grep -oE '^torch(vision)?==[^ ;]+' requirements.lock)
	grep -vE '$(OF_TORCH)' requirements.lock > .venv/requirements.lock
	$(PIP) -r .venv/requirements.lock
else
	$(PIP) -r requirements.lock
endif
	$(PIP) --no-deps --editable .
	touch $@
