# Few labels or none. `make` alone lists the targets.

DATASET ?= demo
SEEDS ?= 0
VLM ?=
METHOD ?=
TILES ?=
CLASSES ?=
OTHER ?=
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
export OTHER
# Large buffers are kept for the next layer; see KEEP_BUFFERS in lib/run.py.
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
.PHONY: reproduce data own test smoke figures lab check format clean help

INSTALLED := $(VENV)/.installed
GOAL := $(or $(firstword $(MAKECMDGOALS)),test)
RUN := PATH="$$(cd "$(VENV)/bin" && pwd):$$PATH" "$(VENV)/bin/python" -m
LAB_SETTINGS := $(VENV)/etc/jupyter/labconfig/default_setting_overrides.json

comma := ,
empty :=
space := $(empty) $(empty)
SEED_LIST := $(subst $(space),$(comma),$(strip $(subst $(comma),$(space),$(SEEDS))))
SNAKEMAKE := $(RUN) snakemake --cores all --nolock --rerun-incomplete \
  --quiet progress rules host --config
CHAIN = "seeds=$(SEED_LIST)" $(if $(strip $(VLM)),"vlm=$(VLM)") \
  $(if $(strip $(METHOD)),"method=$(METHOD)")

reproduce: $(INSTALLED) ## Run every notebook on DATASET for SEEDS; ends with tables and figures
	@$(SNAKEMAKE) "dataset=$(DATASET)" $(CHAIN)

data: $(INSTALLED) ## Download DATASET, or say where to get it
	@$(RUN) lib.download "$(DATASET)"

own: $(INSTALLED) ## Label and classify the images in TILES by the words in CLASSES; ends with a page
	@$(if $(strip $(TILES)),,echo "name a folder of images: make own TILES=folder CLASSES=..." >&2; exit 1)
	@$(RUN) lib.run notebooks/90_your_own_tiles.py -p dataset own -p folder "$$TILES" \
	  -p classes "$$CLASSES" -p other "$$OTHER" -p by_folder $(BY_FOLDER) $(if $(strip $(VLM)),-p vlm "$(VLM)")

test: $(INSTALLED) ## Run the tests
	@$(RUN) pytest

smoke: $(INSTALLED) ## Run the whole chain on a handful of tiny tiles, in a temporary folder
	@folder=$$(mktemp -d) && export OUTPUT_ROOT="$$folder" && \
	if $(SNAKEMAKE) dataset=smoke $(CHAIN) --directory "$$folder"; then rm -rf "$$folder"; echo "The chain runs."; \
	else echo "The chain broke; what it wrote is in $$folder" >&2; exit 1; fi

figures: $(INSTALLED) ## Make tables and figures from data/record alone, without training
	@$(RUN) lib.run notebooks/40_record.py -p mode figures

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
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@printf '  %-18s %s\n' \
	  'DATASET=$(DATASET)' 'a card in data/cards' \
	  'SEEDS=$(SEEDS)' 'one seed or several: 0,1,2' \
	  'VLM=$(VLM)' 'a vision-language model; empty: the one named for the dataset' \
	  'METHOD=$(METHOD)' 'vlm-cpl or unisal; empty: both' \
	  'TILES=$(TILES)' 'a folder of images, for own' \
	  'CLASSES=$(CLASSES)' 'words per class, by semicolon, for own' \
	  'OTHER=$(OTHER)' 'a second folder to predict, for own' \
	  'BY_FOLDER=$(BY_FOLDER)' 'true: subfolders are slides or cases, for own' \
	  'DATA_ROOT=$(DATA_ROOT)' 'where to look for datasets that are not in data/raw' \
	  'VENV=$(VENV)' 'made by the first target that needs it' \
	  'PYTHON=$(PYTHON)' 'makes VENV; 3.11 or newer' \
	  'LAB_ARGS=$(LAB_ARGS)' 'more arguments for JupyterLab'

# The stamp is the last thing written, so a set-up that was broken off is taken up again. Packages
# that were cut off while being written have no RECORD yet: they are dropped and installed anew.
# So is one whose Python is gone.
ifneq ($(shell test -x "$(VENV)/bin/python" && echo runs),runs)
.PHONY: $(INSTALLED)
endif
$(INSTALLED): requirements.lock pyproject.toml
	@python="$(PYTHON)"; hint="Name another: make $(GOAL) PYTHON=python3.12"; \
	if "$(VENV)/bin/python" -c "" 2>/dev/null; then \
	  python="$(VENV)/bin/python"; hint="Remove $(VENV) and run make again."; fi; \
	version=$$("$$python" -c "import platform; print(platform.python_version())" 2>/dev/null); \
	case "$$version" in \
	  3.1[1-9]*|3.[2-9][0-9]*) ;; \
	  "") echo "Python 3.11 or newer is needed; $$python does not run. $$hint" >&2; exit 1 ;; \
	  *) echo "Python 3.11 or newer is needed; $$python is $$version. $$hint" >&2; exit 1 ;; \
	esac; \
	if [ "$$python" = "$(VENV)/bin/python" ]; then echo "Bringing $(VENV) up to date"; \
	else \
	  echo "Setting up $(VENV) (about 5 GB, a few minutes, once)"; clear=; \
	  if [ -e "$(VENV)/pyvenv.cfg" ]; then clear=--clear; fi; \
	  "$$python" -m venv --without-pip $$clear "$(VENV)" || exit 1; \
	fi
	@for record in "$(VENV)"/lib/python3*/site-packages/*.dist-info; do \
	  [ ! -d "$$record" ] || [ -e "$$record/RECORD" ] || rm -rf "$$record"; done
	@"$(VENV)/bin/python" -m ensurepip --default-pip >/dev/null || \
	{ echo "pip could not be installed (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@"$(VENV)/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
	  -r requirements.lock
	@"$(VENV)/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
	  --no-deps --no-build-isolation -e .
	@"$(VENV)/bin/python" -m jupytext_config --settings-file "$(LAB_SETTINGS)" \
	  set-default-viewer python
	@touch "$@"
	@echo "$(VENV) is ready"
