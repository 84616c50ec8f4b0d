# Few labels or none. `make` alone lists the targets.

DATASET ?= demo
SEEDS ?= 0
FOLDS ?= 0
VLM ?=
ENCODER ?=
METHOD ?=
PARTS ?=
PROFILE ?=
TILES ?=
CLASSES ?=
TEMPLATES ?=
LABELS ?=
ASK ?=
OTHER ?=
SLIDES ?=
OTHER_TISSUE ?=
SLIDE_TABLE ?=
FEATURES ?=
BY_FOLDER ?= false
VENV ?= .venv
PYTHON ?= python3
DATA_ROOT ?=
LAB_ARGS ?=
# Files are UTF-8 whatever the language of the shell.
export PYTHONUTF8 := 1
# Large buffers are kept for the next layer; see KEEP_BUFFERS in lib/runner.py.
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 4294967296

# A value stays the text that it is: make expands none, not even to export it, and recipes read them
# as variables of the shell. The second line adds what else stands on the command line.
override GIVEN := $(foreach .name,$(.VARIABLES),$(if $(filter command,$(origin $(.name))),$(.name)))
override NAMED := DATASET SEEDS FOLDS VLM ENCODER METHOD PARTS PROFILE TILES CLASSES LABELS ASK OTHER SLIDES \
  TEMPLATES OTHER_TISSUE SLIDE_TABLE FEATURES BY_FOLDER VENV PYTHON DATA_ROOT LAB_ARGS $(GIVEN)
$(foreach .name,$(NAMED),$(eval override export $(.name) := $$(value $(.name))))

# The tools run in VENV whatever else is active in the calling shell.
unexport PYTHONPATH
unexport PYTHONHOME
unexport PYTHONOPTIMIZE
unexport PIP_TARGET
unexport PIP_PREFIX
unexport PIP_USER
unexport VIRTUAL_ENV
override SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: reproduce ablations record choose throughput data own label prompts slides site zip test test-fast faults kills smoke figures lab check format clean help
.PHONY: venv

override export GOAL := $(firstword $(MAKECMDGOALS))
# What targets read: another name is a slip, which would be passed over without a word.
override READ_reproduce := DATASET SEEDS FOLDS VLM ENCODER METHOD PARTS PROFILE
override READ_ablations := $(READ_reproduce)
override READ_record := $(filter-out SEEDS FOLDS,$(READ_reproduce))
override READ_data := DATASET
override READ_own := TILES CLASSES OTHER_TISSUE OTHER BY_FOLDER LABELS TEMPLATES VLM ENCODER
override READ_label := TILES CLASSES OTHER_TISSUE TEMPLATES ASK VLM ENCODER LAB_ARGS
override READ_prompts := TILES CLASSES TEMPLATES VLM
override READ_slides := SLIDES CLASSES OTHER_TISSUE SLIDE_TABLE BY_FOLDER FEATURES VLM ENCODER
override UNREAD := $(filter-out $(READ_$(GOAL)) VENV PYTHON DATA_ROOT,$(GIVEN))
ifeq ($(words $(MAKECMDGOALS)),1)
$(if $(and $(READ_$(GOAL)),$(UNREAD)),$(error make $(GOAL) does not read $(UNREAD). It reads $(READ_$(GOAL)); a variable of the environment stands before make))
endif
override RUN := PATH="$$(CDPATH= cd -- "$$VENV/bin" && pwd):$$PATH" "$$VENV/bin/python" -m
override PYTEST := $(RUN) pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# An interrupted command has said so: make and its shell say nothing more.
override QUIETLY := trap : INT;
override END := || [ "$$?" = 130 ]
override REPRODUCE := $(RUN) lib.reproduce
# An encoder without a VLM goes beside the one that is named for the dataset.
override VLM_NAME := "$$VLM$${ENCODER:+@$$ENCODER}"
override WITH_VLM := -p vlm $(VLM_NAME)

reproduce: venv ## Run every notebook on DATASET for SEEDS and FOLDS; ends with tables and figures
	@$(QUIETLY) $(REPRODUCE) $(END)

ablations: venv ## Run the ablations of DATASET for SEEDS and FOLDS, after reproduce
	@$(QUIETLY) $(REPRODUCE) ablations $(END)

throughput: venv ## Measure time and memory for made-up tiles, 1000 to a million: minutes, 9 GB
	@$(QUIETLY) $(REPRODUCE) throughput $(END)

# The protocol of the record: what is published has three seeds, ablations have one.
record: venv ## Run all folds, seeds and ablations of DATASET and publish their rows; hours
	@FOLDS=0,1,2,3,4 SEEDS=0,1,2 $(REPRODUCE)
	@FOLDS=0,1,2,3,4 SEEDS=0 $(REPRODUCE) ablations
	@$(RUN) figures.publish record "$$DATASET" $(VLM_NAME)

choose: venv ## Print the tables on synthetic worlds that each default follows from; an hour
	@$(QUIETLY) $(RUN) lib.runner notebooks/60_choice_of_defaults.py $(END)

data: venv ## Download DATASET, or say where to get it
	@$(RUN) data.prepare -- "$$DATASET"

own: venv ## Label and classify the images in TILES by the words in CLASSES; ends with a page
	@[ "$$TILES" ] || { echo "name a folder of images: make own TILES=folder CLASSES=..." >&2; exit 1; }
	@$(QUIETLY) $(RUN) lib.runner notebooks/90_your_own_tiles.py -p dataset own -p folder "$$TILES" \
	  -p classes "$$CLASSES" -p other_tissue "$$OTHER_TISSUE" -p other "$$OTHER" -p by_folder "$$BY_FOLDER" \
	  -p labels "$$LABELS" -p templates "$$TEMPLATES" $(WITH_VLM) $(END)

# notebooks/91_label_tiles.py, after notebook 90; without TILES on synthetic tiles
label: venv ## Label TILES in JupyterLab, from what make own says of them; without TILES synthetic ones
	@$(QUIETLY) $(RUN) apps.labelling.start $${TILES:+-p dataset own} -p folder "$$TILES" \
	  -p classes "$$CLASSES" -p other_tissue "$$OTHER_TISSUE" -p templates "$$TEMPLATES" $${ASK:+-p ask "$$ASK"} $(WITH_VLM) $(END)

# Of several models, by semicolon, the results of the first hold the page.
prompts: venv ## Show how labels of TILES hang on the words and on the VLM, one or several; without TILES synthetic ones
	@$(QUIETLY) $(RUN) lib.runner notebooks/93_compare_prompts.py $${TILES:+-p dataset own} \
	  -p folder "$$TILES" -p classes "$$CLASSES" -p templates "$$TEMPLATES" \
	  $${VLM:+-p vlm "$${VLM%%;*}" -p others "$${VLM#*;}"} $(END)

slides: venv ## Label the slides in SLIDES by the words in CLASSES; ends with a page
	@[ "$$SLIDES" ] || { echo "name a folder of slides: make slides SLIDES=folder CLASSES=..." >&2; exit 1; }
	@$(QUIETLY) $(RUN) lib.runner notebooks/92_your_own_slides.py -p dataset own -p folder "$$SLIDES" \
	  -p classes "$$CLASSES" -p other_tissue "$$OTHER_TISSUE" -p table "$$SLIDE_TABLE" \
	  -p by_folder "$$BY_FOLDER" -p features "$$FEATURES" $(WITH_VLM) $(END)

site: venv ## Write the notebooks that ran on DATASET, results and pages as a static site
	@$(RUN) lib.site

zip: venv ## Pack the repository with its notebooks as .ipynb, for Colab and VS Code
	@$(RUN) lib.notebook_zip

test: venv ## Run all tests
	@$(PYTEST)

test-fast: venv ## Run the tests that take no more than about a second each
	@$(PYTEST) -m "not slow"

faults: venv ## Meet every fault of tests/faults, and print how many are met well; minutes
	@$(RUN) tests.faults

kills: venv ## Kill every job 200 times in all, and print how often it ends as undisturbed; half an hour
	@$(RUN) tests.kills

# In a session of its own, so that an interruption ends its jobs too before the folder is removed.
smoke: venv ## Run the whole chain on a handful of tiny tiles, in a temporary folder
	@folder=$$(mktemp -d) && export DATASET=smoke OUTPUT_ROOT="$$folder" || exit 1; \
	trap 'trap "" HUP INT TERM; kill -- "-$$!"; wait; rm -rf -- "$$folder"; exit 1' HUP INT TERM; \
	setsid env $(REPRODUCE) --directory "$$folder" & \
	if wait "$$!"; then rm -rf -- "$$folder"; echo "The chain runs."; \
	else echo "The chain broke; what it wrote is in $$folder" >&2; exit 1; fi

figures: venv ## Make tables and figures from data/record alone, without training
	@$(RUN) figures.publish

lab: venv ## Open JupyterLab on the first notebook; a click on a script opens it as a notebook
	@$(RUN) apps.labelling.start

check: venv ## Check style, types and security, change nothing
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) bandit --quiet --recursive --configfile pyproject.toml lib apps data figures notebooks

format: venv ## Format the code and repair what ruff can repair
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

clean: ## Remove caches, runs and built models; keeps data/raw, data/record, figures and VENV
	@rm -rf data/runs data/models data/worlds .snakemake .pytest_cache .mypy_cache .ruff_cache .jupytext-sync
	@rm -rf few_labels_or_none.egg-info
	@find lib apps data/prepare figures notebooks tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

help: ## List the targets
	@echo "make TARGET [NAME=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@printf '  %-18s %s\n' \
	  "DATASET=$$DATASET" 'a card in data/cards' \
	  "SEEDS=$$SEEDS" 'one seed or several: 0,1,2' \
	  "FOLDS=$$FOLDS" 'which fifth is tested, one or several: 0,1,2,3,4' \
	  "VLM=$$VLM" 'a vision-language model; empty: the one named for the dataset; for prompts several, by semicolon' \
	  "ENCODER=$$ENCODER" 'an image encoder for clusters and heads, as uni2-h; empty: the VLM' \
	  "METHOD=$$METHOD" 'vlm-cpl or unisal; empty: both' \
	  "PARTS=$$PARTS" 'jobs that share the tiles or slides of a run, as one per GPU' \
	  "PROFILE=$$PROFILE" 'of snakemake, such as profiles/slurm; empty: this machine alone' \
	  "TILES=$$TILES" 'a folder of images, for own, label and prompts' \
	  "CLASSES=$$CLASSES" 'words per class, by semicolon, for own, label, prompts and slides' \
	  "TEMPLATES=$$TEMPLATES" 'sentences with {} for the class, by semicolon, for own, label and prompts' \
	  "LABELS=$$LABELS" 'a file of labels, .jsonl of label or a .csv with path and label, for own' \
	  "ASK=$$ASK" 'query, second, disputed, or audit, how good it is; empty: query, for label' \
	  "OTHER=$$OTHER" 'a second folder to predict, for own' \
	  "SLIDES=$$SLIDES" 'a folder of slides, for slides' \
	  "OTHER_TISSUE=$$OTHER_TISSUE" 'words for what is no class, by semicolon, for own, label and slides' \
	  "SLIDE_TABLE=$$SLIDE_TABLE" 'a CSV with path and mpp or case of a slide, for slides' \
	  "FEATURES=$$FEATURES" 'a folder of features by TRIDENT or CLAM, for slides' \
	  "BY_FOLDER=$$BY_FOLDER" 'true: subfolders are slides or cases, for own and slides' \
	  "DATA_ROOT=$$DATA_ROOT" 'where to look for datasets that are not in data/raw' \
	  "VENV=$$VENV" 'made by the first target that needs it' \
	  "PYTHON=$$PYTHON" 'makes VENV; 3.11 or newer' \
	  "LAB_ARGS=$$LAB_ARGS" 'more arguments for JupyterLab'

venv:
	@./set_up.sh "$$VENV" "$$PYTHON" "$$GOAL"
