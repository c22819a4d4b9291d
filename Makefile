# Everything needs only Python 3.11, pip, make and git; each target works alone on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
DEMO := runs/demo
AXE := axe-core@4.14.1

.PHONY: audit release-check zoo demo test test-browser test-all bench measure tables docs lint types clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=24"
	$(BIN)/pip install --quiet --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps torchattacks==3.5.1
	touch $(STAMP)

# One thread: as fast on these small networks, and the same bits whatever the number of cores.
demo: export OMP_NUM_THREADS = 1
demo: $(STAMP)
	rm -rf $(DEMO)
	$(BIN)/advhash attack --victim dlcmh --method prosgan --out $(DEMO)/prosgan-unbounded
	$(BIN)/advhash attack --victim dlcmh --method blend --match $(DEMO)/prosgan-unbounded --out $(DEMO)/blend-same-l2
	$(BIN)/advhash attack --victim dlcmh --method prosgan --eps 8/255 --out $(DEMO)/prosgan-8
	$(BIN)/advhash attack --victim dlcmh --method prosgan --eps 16/255 --out $(DEMO)/prosgan-16
	$(BIN)/advhash attack --victim dlcmh --method dhta --eps 8/255 --out $(DEMO)/dhta-8
	$(BIN)/advhash attack --victim dlcmh --method dhta --eps 16/255 --out $(DEMO)/dhta-16
	$(BIN)/advhash report $(DEMO)/prosgan-unbounded $(DEMO)/blend-same-l2 $(DEMO)/prosgan-8 \
		$(DEMO)/prosgan-16 $(DEMO)/dhta-8 $(DEMO)/dhta-16 --out $(DEMO)/report.html
	@echo "Open $(DEMO)/report.html"

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# mypy follows no editable install of renamed folders: it checks the installed tree.
types: $(STAMP)
	rm -rf build/site build/lib  # modules that are gone would be installed again
	$(BIN)/pip install --quiet --no-deps --target build/site .
	cd build/site && ../../$(BIN)/mypy --strict --config-file ../../pyproject.toml \
		--python-executable ../../$(BIN)/python -p advhash

# Test files are shared out to WORKERS processes of one thread each and 1.5 GB.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile

# Pages in a browser. Needs chromium (Debian's), node and npm; without them the tests say so.
test-browser: $(STAMP)
	npm install --silent --no-save --prefix build/browser $(AXE) || true
	$(BIN)/pytest -m browser

test-all: lint types test-browser
	$(BIN)/pytest -m "not browser"

# Known holes of the versions in requirements.lock, where a database can be reached.
audit:
	$(PYTHON) tools/audit.py

bench: $(STAMP)
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/cost_table.py
	$(BIN)/python benchmarks/defense_cost.py
	$(BIN)/python benchmarks/encoding.py
	$(BIN)/python benchmarks/scan.py --groups pairs

# Every measured page of docs/ again, from the committed figures: a minute, no model.
tables: $(STAMP)
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python tools/figures_page.py

measure: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/measure.py

# The sdist and the wheel made of it, each in an environment of its own: what users get by pip.
release-check: $(STAMP)
	rm -rf build/release dist/advhash_toolkit-*
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv build/release/wheel
	build/release/wheel/bin/pip install --quiet dist/advhash_toolkit-*.whl
	$(PYTHON) -m venv build/release/sdist
	build/release/sdist/bin/pip install --quiet dist/advhash_toolkit-*.tar.gz
	for kind in wheel sdist; do \
		(cd build/release/$$kind && bin/advhash doctor && bin/advhash attack --victim dpsh --method dhta \
			--eps 8/255 --queries 20 --set victim.epochs=1 --out run) || exit 1; \
	done

# Ten trained victims in a wheel of their own, from the data that packages bring; goes on where it stopped.
zoo: export OMP_NUM_THREADS = 1
zoo: $(STAMP)
	$(BIN)/python zoo/make.py
	$(BIN)/python -m build --wheel --outdir dist zoo
	@echo "pip install dist/advhash_zoo-*.whl"

docs: $(STAMP)
	$(BIN)/pip install --quiet --editable ".[docs]"
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

clean:
	rm -rf build docs/_build runs $(VENV)
