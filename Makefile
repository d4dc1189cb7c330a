# make run    sets everything up and runs the main job
# make test   sets everything up and passes the tests
PYTHON ?= python3
VENV   := .venv
STAMP  := $(VENV)/installed

.PHONY: run test clean

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

clean:
	rm -rf $(VENV) build dist
