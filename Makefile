# Few labels or none. `make` alone lists the targets.

DATASET ?= demo
SEEDS ?= 0
FOLDS ?= 0
VLM ?=
METHOD ?=
TILES ?=
CLASSES ?=
LABELS ?=
OTHER ?=
SLIDES ?=
OTHER_TISSUE ?=
SLIDE_TABLE ?=
BY_FOLDER ?= false
VENV ?= .venv
PYTHON ?= python3
DATA_ROOT ?=
LAB_ARGS ?=
ifneq ($(strip $(DATA_ROOT)),)
export DATA_ROOT
endif
export TILES
export CLASSES
export LABELS
export OTHER
export SLIDES
export OTHER_TISSUE
export SLIDE_TABLE
# Large buffers are kept for the next layer; see KEEP_BUFFERS in lib/runner.py.
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 4294967296

# The tools run in $(VENV) whatever else is active in the calling shell.
unexport PYTHONPATH
unexport PYTHONHOME
unexport PIP_TARGET
unexport PIP_PREFIX
unexport PIP_USER
unexport VIRTUAL_ENV
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: reproduce ablations record data own label slides test test-fast smoke figures lab check format clean help

INSTALLED := $(VENV)/.installed
GOAL := $(or $(firstword $(MAKECMDGOALS)),test)
RUN := PATH="$$(cd "$(VENV)/bin" && pwd):$$PATH" "$(VENV)/bin/python" -m
PYTEST = $(RUN) pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

comma := ,
empty :=
space := $(empty) $(empty)
SEED_LIST := $(subst $(space),$(comma),$(strip $(subst $(comma),$(space),$(SEEDS))))
FOLD_LIST := $(subst $(space),$(comma),$(strip $(subst $(comma),$(space),$(FOLDS))))
SNAKEMAKE := $(RUN) snakemake --cores all --nolock --rerun-incomplete \
  --quiet rules host --config
CHOSEN = $(if $(strip $(VLM)),"vlm=$(VLM)") $(if $(strip $(METHOD)),"method=$(METHOD)")
CHAIN = "seeds=$(SEED_LIST)" "folds=$(FOLD_LIST)" $(CHOSEN)
# The protocol of the record: what is published has three seeds, ablations have one.
EVERY_FOLD = "seeds=0" "folds=0,1,2,3,4" $(CHOSEN)
EVERY_RUN = "seeds=0,1,2" "folds=0,1,2,3,4" $(CHOSEN)

reproduce: $(INSTALLED) ## Run every notebook on DATASET for SEEDS and FOLDS; ends with tables and figures
	@$(SNAKEMAKE) "dataset=$(DATASET)" $(CHAIN)

ablations: $(INSTALLED) ## Run the ablations of DATASET for SEEDS and FOLDS, after reproduce
	@$(SNAKEMAKE) "dataset=$(DATASET)" $(CHAIN) --nolock ablations

record: $(INSTALLED) ## Run all folds, seeds and ablations of DATASET and publish their rows; hours
	@$(SNAKEMAKE) "dataset=$(DATASET)" $(EVERY_RUN)
	@$(SNAKEMAKE) "dataset=$(DATASET)" $(EVERY_FOLD) --nolock ablations
	@$(RUN) lib.runner notebooks/40_record.py -p dataset "$(DATASET)" -p mode publish \
	  $(if $(strip $(VLM)),-p vlm "$(VLM)")

data: $(INSTALLED) ## Download DATASET, or say where to get it
	@$(RUN) lib.data.download "$(DATASET)"

own: $(INSTALLED) ## Label and classify the images in TILES by the words in CLASSES; ends with a page
	@$(if $(strip $(TILES)),,echo "name a folder of images: make own TILES=folder CLASSES=..." >&2; exit 1)
	@$(RUN) lib.runner notebooks/90_your_own_tiles.py -p dataset own -p folder "$$TILES" \
	  -p classes "$$CLASSES" -p other "$$OTHER" -p by_folder $(BY_FOLDER) \
	  -p labels "$$LABELS" $(if $(strip $(VLM)),-p vlm "$(VLM)")

# notebooks/91_label_tiles.py, after notebook 90; without TILES on the drawn tiles
label: $(INSTALLED) ## Label TILES in JupyterLab, from what make own says of them; without TILES drawn ones
	@$(RUN) lib.labelling.start $(if $(strip $(TILES)),-p dataset own) -p folder "$$TILES" \
	  -p classes "$$CLASSES" $(if $(strip $(VLM)),-p vlm "$(VLM)") $(LAB_ARGS)

slides: $(INSTALLED) ## Label the slides in SLIDES by the words in CLASSES; ends with a page
	@$(if $(strip $(SLIDES)),,echo "name a folder of slides: make slides SLIDES=folder CLASSES=..." >&2; exit 1)
	@$(RUN) lib.runner notebooks/92_your_own_slides.py -p dataset own -p folder "$$SLIDES" \
	  -p classes "$$CLASSES" -p other_tissue "$$OTHER_TISSUE" -p table "$$SLIDE_TABLE" \
	  $(if $(strip $(VLM)),-p vlm "$(VLM)")

test: $(INSTALLED) ## Run all tests
	@$(PYTEST)

test-fast: $(INSTALLED) ## Run the tests that take no more than about a second each
	@$(PYTEST) -m "not slow"

smoke: $(INSTALLED) ## Run the whole chain on a handful of tiny tiles, in a temporary folder
	@folder=$$(mktemp -d) && export OUTPUT_ROOT="$$folder" && \
	if $(SNAKEMAKE) dataset=smoke $(CHAIN) --directory "$$folder"; then rm -rf "$$folder"; echo "The chain runs."; \
	else echo "The chain broke; what it wrote is in $$folder" >&2; exit 1; fi

figures: $(INSTALLED) ## Make tables and figures from data/record alone, without training
	@$(RUN) lib.runner notebooks/40_record.py -p mode figures

lab: $(INSTALLED) ## Open JupyterLab on notebooks/; a click on a script opens it as a notebook
	@$(RUN) jupyterlab --ServerApp.root_dir=. --ServerApp.preferred_dir=notebooks $(LAB_ARGS)

check: $(INSTALLED) ## Check style and types, change nothing
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy lib

format: $(INSTALLED) ## Format the code and repair what ruff can repair
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

clean: ## Remove caches, runs and built models; keeps data/raw, data/record, figures and VENV
	@rm -rf data/runs data/models .snakemake .pytest_cache .mypy_cache .ruff_cache .jupytext-sync
	@rm -rf build dist *.egg-info
	@for folder in lib notebooks tests; do [ ! -d "$$folder" ] || find "$$folder" \
	  \( -name __pycache__ -o -name .ipynb_checkpoints -o -name '*.ipynb' \) -prune -exec rm -rf {} +; \
	done

help: ## List the targets
	@echo "make TARGET [NAME=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@printf '  %-18s %s\n' \
	  'DATASET=$(DATASET)' 'a card in data/cards' \
	  'SEEDS=$(SEEDS)' 'one seed or several: 0,1,2' \
  'FOLDS=$(FOLDS)' 'which fifth is tested, one or several: 0,1,2,3,4' \
	  'VLM=$(VLM)' 'a vision-language model; empty: the one named for the dataset' \
	  'METHOD=$(METHOD)' 'vlm-cpl or unisal; empty: both' \
	  'TILES=$(TILES)' 'a folder of images, for own and label' \
	  'CLASSES=$(CLASSES)' 'words per class, by semicolon, for own, label and slides' \
	  'LABELS=$(LABELS)' 'a file of labels, .jsonl of label or a .csv with path and label, for own' \
	  'OTHER=$(OTHER)' 'a second folder to predict, for own' \
	  'SLIDES=$(SLIDES)' 'a folder of slides, for slides' \
	  'OTHER_TISSUE=$(OTHER_TISSUE)' 'words for what is no class, by semicolon, for slides' \
	  'SLIDE_TABLE=$(SLIDE_TABLE)' 'a CSV with path and mpp, for slides that do not say it' \
	  'BY_FOLDER=$(BY_FOLDER)' 'true: subfolders are slides or cases, for own' \
	  'DATA_ROOT=$(DATA_ROOT)' 'where to look for datasets that are not in data/raw' \
	  'VENV=$(VENV)' 'made by the first target that needs it' \
	  'PYTHON=$(PYTHON)' 'makes VENV; 3.11 or newer' \
	  'LAB_ARGS=$(LAB_ARGS)' 'more arguments for JupyterLab'

# A set-up whose Python is gone is made again.
ifneq ($(shell test -x "$(VENV)/bin/python" && echo runs),runs)
.PHONY: $(INSTALLED)
endif
$(INSTALLED): requirements.lock pyproject.toml set_up.sh
	@./set_up.sh "$(VENV)" "$(PYTHON)" "$(GOAL)"
