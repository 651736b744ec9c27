# make demo and make test need only Python 3.11 to 3.14, pip and make; each sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

KERAS_VENV := .venv-keras
KERAS := $(KERAS_VENV)/installed

# The service's peers; where they cannot be installed, it is measured alone, and says so.
PEERS_VENV := .venv-serve-peers
PEERS := $(PEERS_VENV)/installed

# The real digits to measure on: Kaggle's train.csv and test.csv in this folder.
DATA ?= .
# Photos to measure on, in folders named by class.
PHOTOS ?= photos
# Small colour images to measure on: CIFAR-10, as `imprint train` takes it.
COLOUR ?= cifar-10-batches-bin
RECIPES ?= quick best record
SEEDS ?= 5
EPOCHS ?= 50

# For `make kills` and `make fuzz` (which uses atheris where that is installed): how often, and how many damaged files.
KILLS ?= 200
CASES ?= 10000

.PHONY: demo test test-fast check docs lesson kills fuzz disk bench bench-tutorial bench-recipes bench-photos bench-pretrained bench-growth bench-reading bench-doctor bench-glyphs bench-broken bench-memory bench-unsure bench-serving bench-serve bench-lesson bench-importing bench-gpu bench-colour scale clean

demo: $(INSTALLED)
	$(BIN)/imprint train digits --validation 0.2

test: $(INSTALLED)
	@scripts/install-browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadgroup

# Between commits: everything but the tests marked slow.
test-fast: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadgroup -m "not slow"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_docstrings.py tests/test_hints.py

kills: $(INSTALLED)
	$(BIN)/python scripts/kills.py $(KILLS)
	$(BIN)/python scripts/project_kills.py $(KILLS)

fuzz: $(INSTALLED)
	$(BIN)/python scripts/fuzz.py --cases $(CASES)

disk: $(INSTALLED)
	$(BIN)/python scripts/disk.py

lesson: $(INSTALLED)
	$(BIN)/python scripts/lesson_page.py

docs: $(INSTALLED)
	$(BIN)/python scripts/api_page.py

bench: bench-tutorial bench-recipes bench-photos bench-pretrained bench-growth bench-reading bench-doctor bench-glyphs bench-broken bench-memory bench-unsure bench-serving bench-serve bench-lesson bench-importing

bench-tutorial: $(INSTALLED) $(KERAS)
	$(BIN)/python benchmarks/tutorial.py $(DATA) --keras $(KERAS_VENV)/bin/python

bench-recipes: $(INSTALLED) $(KERAS)
	$(BIN)/python benchmarks/recipes.py $(DATA) --keras $(KERAS_VENV)/bin/python --recipes $(RECIPES) --seeds $(SEEDS)

bench-photos: $(INSTALLED) $(KERAS)
	$(BIN)/python benchmarks/photos.py $(PHOTOS) --keras $(KERAS_VENV)/bin/python --seeds $(SEEDS)

bench-pretrained: $(INSTALLED) $(KERAS)
	$(BIN)/python benchmarks/pretrained.py photos=$(PHOTOS):0.5 --keras $(KERAS_VENV)/bin/python --seeds $(SEEDS)

bench-colour: $(INSTALLED) $(KERAS)
	$(BIN)/python benchmarks/colour.py $(COLOUR) --keras $(KERAS_VENV)/bin/python --recipes $(filter quick best,$(RECIPES)) --seeds $(SEEDS) --epochs $(EPOCHS)

bench-growth: $(INSTALLED)
	$(BIN)/python benchmarks/growth.py $(DATA)/train.csv

bench-reading: $(INSTALLED) $(KERAS)
	$(BIN)/python benchmarks/reading.py $(PHOTOS) --digits $(DATA)/train.csv --keras $(KERAS_VENV)/bin/python

bench-doctor: $(INSTALLED)
	$(BIN)/python benchmarks/doctor.py $(DATA)/train.csv --photos $(PHOTOS) --seeds $(SEEDS)

bench-glyphs: $(INSTALLED)
	$(BIN)/python benchmarks/glyphs.py $(DATA)/train.csv

bench-broken: $(INSTALLED)
	$(BIN)/python benchmarks/broken.py

bench-memory: $(INSTALLED)
	$(BIN)/python benchmarks/memory.py

bench-serving: $(INSTALLED)
	$(BIN)/python benchmarks/serving.py $(DATA)

bench-serve: $(INSTALLED) $(PEERS)
	$(BIN)/python benchmarks/serve.py --peers $(PEERS_VENV)/bin/python

bench-unsure: $(INSTALLED)
	$(BIN)/python benchmarks/unsure.py $(DATA)/train.csv --photos $(PHOTOS) --seeds $(SEEDS)
	$(BIN)/python benchmarks/unsure.py $(DATA)/train.csv --photos $(PHOTOS) --seeds $(SEEDS) --recipe best
	$(BIN)/python benchmarks/expected.py $(DATA)/train.csv --seeds $(SEEDS)

bench-lesson: $(INSTALLED)
	$(BIN)/python benchmarks/lesson.py digits
	$(BIN)/python benchmarks/lesson.py $(DATA)/train.csv

bench-importing: $(INSTALLED)
	$(BIN)/python benchmarks/importing.py

bench-gpu: $(INSTALLED)
	$(BIN)/python benchmarks/gpu.py $(VENV)/digits.npz --pack $(DATA)/train.csv
	$(BIN)/python benchmarks/gpu.py $(VENV)/digits.npz

scale: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/python scripts/scale_bulk.py
	$(BIN)/python scripts/scale.py --digits $(DATA)/train.csv --photos $(PHOTOS)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(KERAS): benchmarks/keras-requirements.txt
	$(PYTHON) -m venv $(KERAS_VENV)
	$(KERAS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(PEERS): benchmarks/serve-requirements.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	-$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $< && touch $@

clean:
	rm -rf $(VENV) $(KERAS_VENV) $(PEERS_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
