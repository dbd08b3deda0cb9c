## make demo     restore a real piano clip with the model in the package (the first run installs into .venv)
## make test     run every test, one process for each processor (one file: make test ARGS=tests/test_docs.py)
## make book     build the website, offline
## make serve    build the website and show it on http://127.0.0.1:8000
## make export   write the package and the README from the notebooks
## make readme   write the README only
## make clean    remove what was built (not .venv, not runs/)
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python3.12 python3.13,$(if $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo ok),$(p))))
BIN = .venv/bin
DEMO = nbs/50_experiments/01_restore_clip.ipynb
BOOK = _docs/book
PORT ?= 8000
.DEFAULT_GOAL = help
.DELETE_ON_ERROR:
.PHONY: help demo test book serve readme export clean

help:
	@sed -n 's/^## //p' Makefile

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "tfinpaint needs Python 3.11 or newer: install it (Debian, Ubuntu: apt install python3.11 python3.11-venv) or name one: make PYTHON=/path/to/python3.11 demo" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig as s; exit(not os.path.exists(s.get_path("include") + "/Python.h"))' && { command -v gcc || command -v cc; } >/dev/null || { echo "One dependency (pesq) is compiled: install gcc and Python's headers (Debian, Ubuntu: apt install gcc python3-dev)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# A stamp per kind of install, newer than pyproject.toml: a changed pyproject.toml installs again.
# What the tests need includes what the demo needs, so that stamp serves for both.
.venv/installed-run: pyproject.toml | $(BIN)/pip
	@echo 'Installing tfinpaint into .venv: once, some minutes, several GB (PyTorch)'
	@$(BIN)/python -m pip install --disable-pip-version-check -q -e .
	@touch $@

.venv/installed-dev: pyproject.toml | $(BIN)/pip
	@echo 'Installing tfinpaint and what its tests and its website need into .venv: once, some minutes, several GB (PyTorch)'
	@$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[dev]'
	@touch $@ .venv/installed-run

demo: .venv/installed-run
	@$(BIN)/tfinpaint run $(DEMO)

test: .venv/installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

book: .venv/installed-dev
	@$(BIN)/python tools/book.py $(BOOK)

serve: book
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(BOOK)/_build/html

readme: .venv/installed-dev
	$(BIN)/python tools/readme.py

export: .venv/installed-dev
	$(BIN)/nbdev-export
	$(BIN)/python tools/readme.py

clean:
	rm -rf _docs _proc build dist .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
