# make demo · test · check · docs · sbom · nightly · results · gpu · proto: each does its own set-up in .venv.  GPU=1 installs the GPU builds.
PYTHON ?= python3
GPU ?=
EXTRA ?= cuvs
DEVICE := $(if $(GPU),gpu,cpu)
BIN := .venv/bin
READY := .venv/ready-$(DEVICE)
CLIENT := clients/python
RELEASED := proto/released.txtpb
# Tests, checks and the demo start hundreds of processes: each would compile our modules again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check docs sbom nightly results proto proto-release gpu clean

$(READY): pyproject.toml $(CLIENT)/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Triptych needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e $(CLIENT) -e '.[$(DEVICE),train,dev,docs]'
	touch $@

demo: $(READY)
	$(BIN)/triptych demo --home demo-home $(if $(SERVE),--serve) $(if $(USERS),--users $(USERS))

# One thread each: of tiny tensors a second one waits more than it works.  Three processes, as tests wait for servers a fifth of their
# time.  In the order of tests/conftest.py: the longest files first.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint proto
	$(BIN)/buf breaking proto --against $(RELEASED)
	$(BIN)/python -m scripts.audit

# The documents as a site, into site/; anything to be warned of, such as a broken link, is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site

# Which packages, in which versions and under which licences, an installation consists of: CycloneDX.
sbom: $(READY)
	$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --of JSON -o sbom.json

# By hand: other examples each time, and kills; docs/reliability.md keeps what was found.
nightly: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s --timeout 0 --hypothesis-profile nightly --hypothesis-show-statistics \
	  tests/server/wire/test_fuzz.py tests/store/test_import_anything.py \
	  tests/scripts/gateway/test_same_answers.py tests/scripts/gateway/test_description.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly -n 2 --dist loadfile --timeout 0
	$(BIN)/triptych bench faults --rounds 20
	$(BIN)/triptych bench faults --stage log --rounds 20 --events 100000
	$(BIN)/triptych bench import --gib 2 --most-mib 1536

# Every figure of docs/results.md, at one commit: make results DATA=folder-of-data-sets RESULTS=working-folder.  Hours; started again it goes on.
results: $(READY)
	@test -n "$(DATA)" -a -n "$(RESULTS)" || { echo "say make results DATA=folder-of-data-sets RESULTS=working-folder"; exit 1; }
	$(BIN)/python -m scripts.results "$(DATA)" "$(RESULTS)" $(foreach set,$(SETS),--set $(set)) $(if $(TRAIN),--train "$(TRAIN)") $(if $(ANY_COMMIT),--any-commit)

proto: $(READY)
	$(BIN)/python -m scripts.stubs
	$(BIN)/python -m scripts.gateway.descriptors
	$(BIN)/python -m scripts.documents api

# What needs a graphics card, in one go, on a machine that has one: gpu.json, and gpu.md for docs/benchmarks.md.  EXTRA=gpu leaves
# RAPIDS out, and CAGRA graphs with it.  Without a card nothing is installed, and the exit code is 3 (make shows it as Error 3).
gpu:
	@$(PYTHON) -m scripts.gpu.card
	@$(MAKE) --no-print-directory .venv-gpu/ready-$(EXTRA)
	.venv-gpu/bin/python -m scripts.gpu --json gpu.json --markdown gpu.md

.venv-gpu/ready-%: pyproject.toml $(CLIENT)/pyproject.toml constraints.txt
	rm -rf .venv-gpu
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e $(CLIENT) -e '.[$*,train,dev]'
	touch $@

# With each release, and only then: clients of the released API may not break afterwards.
proto-release: check
	$(BIN)/buf build proto --exclude-source-info -o $(RELEASED)

clean:
	rm -rf .venv .venv-gpu demo-home site .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info $(CLIENT)/*.egg-info $(CLIENT)/build
