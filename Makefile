# Everything runs in .venv, which the first target makes; only Python is needed. Each target installs what it needs.
#   make demo         track in a procedural clip, print the mean overlap, write an annotated video
#   make app          a web page on this machine: upload a video, draw the box, write the sentence
#   make test         the tests            make quality      lint and formatting
#   make test-common  transformers' own test suites against our classes (downloads their source once)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TRACKING := $(VENV)/.tracking-installed
READY := $(VENV)/.installed

.PHONY: demo app test test-common quality style clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(TRACKING): pyproject.toml | $(BIN)/python
	$(INSTALL) --editable .
	touch $@

# torch comes from the ordinary index together with torchvision: a CPU-only torch beside that torchvision breaks timm
# and transformers' image utilities, so the two are always resolved in one command.
$(READY): pyproject.toml | $(BIN)/python
	$(INSTALL) torch torchvision --editable ".[dev]"
	touch $@

demo: $(TRACKING)
	$(BIN)/pjvlt-track --seed 3

app: $(TRACKING)
	$(INSTALL) --editable ".[demo]"
	$(BIN)/python scripts/app.py

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-common: $(READY)
	$(BIN)/python tests/common/fetch.py
	$(BIN)/python -m pytest tests/common

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache outputs dist
