# make run: the whole platform on this machine.  make test: the whole suite, on real servers of its own.
# make faults: the promises of docs/reliability.md, under faults at load.

HTTP_PORT ?= 8000
MQTT_PORT ?= 1883
WEB_PROCESSES ?= 2
VAR ?= var
ARGS ?=
UV_VERSION := 0.13.9
# Each worker has servers of its own; WORKERS= runs the tests one after the other. How many: tests/servers.py.
WORKERS ?= -n auto --dist loadfile --no-loadscope-reorder

PYTHON_NAMES := python3 python3.13 python3.12 python3.11
PYTHON ?= $(shell for name in $(PYTHON_NAMES); do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$name && break; done)
VENV_PYTHON := .venv/bin/python
UV := .venv/bin/uv

# Without a writable home directory, downloads are cached here.
ifneq ($(shell test -w "$$HOME" && echo yes),yes)
export UV_CACHE_DIR ?= $(CURDIR)/.venv/cache
export PIP_NO_CACHE_DIR ?= 1
endif

.PHONY: run test test-fast bench faults attacks upgrade fuzz fuzz-guided api-fuzz api-lint python-client typescript-client bruno-collection lint schemas docs hooks lock messages

run: .venv/run.stamp
	@GWANJE_VAR="$(VAR)" HTTP_PORT="$(HTTP_PORT)" MQTT_PORT="$(MQTT_PORT)" WEB_PROCESSES="$(WEB_PROCESSES)" $(VENV_PYTHON) manage.py up $(ARGS)

test: .venv/test.stamp
	@command -v chromium >/dev/null && command -v mosquitto_pub >/dev/null || tests/install_browser.sh
	$(VENV_PYTHON) -m pytest $(WORKERS) $(ARGS)

# Units and the API, without tests that commit, are slow, or need a browser: for the time between two edits.
test-fast: .venv/test.stamp
	$(VENV_PYTHON) -m pytest $(WORKERS) -m "not live and not slow" \
		--ignore tests/management --ignore tests/pages --ignore tests/fuzz $(ARGS)

# One benchmark, on servers of its own: make bench PART=ingest ARGS="--json --only one,two"
PART ?= contract
bench: .venv/test.stamp
	$(VENV_PYTHON) -m tests.benchmarks $(PART) $(ARGS)

# 45 minutes: each row of the fault matrix for a minute. Writes its results into docs/reliability.md.
faults: .venv/test.stamp
	$(VENV_PYTHON) -m tests.faults $(ARGS)

# What one tenant, key or visitor can cost another; each attack also without the brake that bounds it.
attacks: .venv/test.stamp
	$(VENV_PYTHON) -m tests.attacks $(ARGS)

# The upgrade from a former revision, a commit or a tag, under load: make upgrade BASE=HEAD~20
BASE ?= HEAD
upgrade: .venv/test.stamp
	$(VENV_PYTHON) -m tests.upgrade --base $(BASE) $(ARGS)

# A minute of generated inputs; make fuzz SECONDS=3600 for an hour.
SECONDS ?= 60
fuzz: .venv/test.stamp
	$(VENV_PYTHON) -m tests.fuzz --seconds $(SECONDS)

# The same from raw bytes, guided by the branches that an input reaches. Ends at the first finding.
ATHERIS := atheris==3.0.0
fuzz-guided: .venv/test.stamp
	@$(UV) pip install --quiet --python $(VENV_PYTHON) $(ATHERIS)
	$(VENV_PYTHON) -m tests.fuzz.guided --seconds $(SECONDS)

# Requests that schemathesis makes from the OpenAPI document, for two minutes: make api-fuzz SECONDS=1200 for longer.
# In an environment of its own, because every run of the tests would load its plugin for pytest.
SCHEMATHESIS_VERSION := 4.32.5
SCHEMATHESIS_VENV := .venv/schemathesis-$(SCHEMATHESIS_VERSION)
api-fuzz: SECONDS = 120
api-fuzz: .venv/test.stamp $(SCHEMATHESIS_VENV)/bin/schemathesis
	$(VENV_PYTHON) -m tests.api_fuzz --schemathesis $(SCHEMATHESIS_VENV)/bin/schemathesis --seconds $(SECONDS) $(ARGS)

$(SCHEMATHESIS_VENV)/bin/schemathesis: | $(UV)
	@$(UV) venv --quiet --clear --python $(VENV_PYTHON) $(SCHEMATHESIS_VENV)
	@$(UV) pip install --quiet --python $(SCHEMATHESIS_VENV)/bin/python schemathesis==$(SCHEMATHESIS_VERSION)

# The OpenAPI documents against the rules of .spectral.yaml, where npm is installed.
SPECTRAL := @stoplight/spectral-cli@6
api-lint: export SECRET_KEY = lint
api-lint: export DATABASE_URL = postgres://lint@127.0.0.1:1/lint
api-lint: export REDIS_URL = redis://127.0.0.1:1/0
api-lint: .venv/test.stamp
	@if ! command -v npx >/dev/null; then echo "npm is not installed: the OpenAPI document is not linted"; exit 0; fi; \
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && for urlconf in urls urls_public; do \
	$(VENV_PYTHON) manage.py spectacular --urlconf config.$$urlconf --format openapi-json --file "$$folder/$$urlconf.json" && \
	npx --yes $(SPECTRAL) lint --fail-severity warn --ruleset .spectral.yaml "$$folder/$$urlconf.json" || exit 1; done

# The clients of clients/, generated from the OpenAPI document, as packages in CLIENTS.
CLIENTS ?= var/clients
OPENAPI_PYTHON_CLIENT := openapi-python-client==0.29.1
OPENAPI := $(VENV_PYTHON) manage.py spectacular --urlconf config.urls --format openapi-json --file
# Generated and built in copies, so that the sources stay as they are.
python-client: .venv/test.stamp
	@rm -rf "$(CLIENTS)/python" && mkdir -p "$(CLIENTS)" && cp -r clients/python "$(CLIENTS)/python"
	@$(OPENAPI) "$(CLIENTS)/openapi.json"
	@$(UV) tool run --quiet --from $(OPENAPI_PYTHON_CLIENT) openapi-python-client generate --meta none \
		--path "$(CLIENTS)/openapi.json" --config clients/python/generator.yaml \
		--output-path "$(CLIENTS)/python/src/gwanje_client/generated" >/dev/null
	$(UV) build --quiet --wheel "$(CLIENTS)/python" --out-dir "$(CLIENTS)"

typescript-client: .venv/test.stamp
	@rm -rf "$(CLIENTS)/typescript" && mkdir -p "$(CLIENTS)" && cp -r clients/typescript "$(CLIENTS)/typescript"
	@$(OPENAPI) "$(CLIENTS)/typescript/openapi.json"
	cd "$(CLIENTS)/typescript" && npm install --no-audit --no-fund --no-package-lock && npm run build && \
		npm pack --pack-destination "$(abspath $(CLIENTS))"

# All requests of the API as a collection for Bruno, with the variables baseUrl and token.
BRUNO := @usebruno/cli@4.1.0
bruno-collection: .venv/test.stamp
	@mkdir -p "$(CLIENTS)" && rm -rf "$(CLIENTS)/bruno" && $(OPENAPI) "$(CLIENTS)/openapi.json"
	npx --yes $(BRUNO) import openapi --source "$(CLIENTS)/openapi.json" --output "$(CLIENTS)/bruno" --collection-name Gwanje

# The settings must be complete; their values are not used.
lint messages python-client typescript-client bruno-collection: export SECRET_KEY = lint
lint messages python-client typescript-client bruno-collection: export DATABASE_URL = postgres://lint@127.0.0.1:1/lint
lint messages python-client typescript-client bruno-collection: export REDIS_URL = redis://127.0.0.1:1/0
lint: .venv/test.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .
	.venv/bin/lint-imports
	$(VENV_PYTHON) -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run

# The statements of all migrations in an empty schema, for new installations and tenants: before a release.
schemas: .venv/test.stamp
	$(VENV_PYTHON) -m tests.schemas

# The documentation site, in site/. A link or an anchor that leads nowhere is an error.
docs: .venv/test.stamp
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

# The hooks of .pre-commit-config.yaml, for `git commit` and `git push`.
hooks: .venv/test.stamp
	.venv/bin/pre-commit install --hook-type pre-commit --hook-type pre-push

# Collects the texts for translation, and compiles the translations. Run it again after translating.
messages: KO := locale/ko/LC_MESSAGES/django
messages: .venv/run.stamp
	@command -v msgfmt >/dev/null || { echo "GNU gettext is needed. On Debian and Ubuntu: apt-get install gettext" >&2; exit 1; }
	$(VENV_PYTHON) -W ignore::RuntimeWarning manage.py makemessages --locale ko
	msgfmt --check --statistics -o $(KO).mo $(KO).po

LOCKING := make lock   (uv pip compile --universal --python-version 3.11 pyproject.toml; the whole tree, exact, for Python 3.11 to 3.13)
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --custom-compile-command "$(LOCKING)"

# Keeps locked versions that still fit; for newer ones: make lock ARGS=--upgrade
lock: $(UV)
	$(COMPILE) $(ARGS) pyproject.toml --output-file requirements.txt
	$(COMPILE) $(ARGS) pyproject.toml --extra dev --constraints requirements.txt --output-file requirements-dev.txt

.venv/run.stamp: requirements.txt | $(UV)
	@echo "Installing what the platform needs"
	@$(UV) pip install --quiet --python $(VENV_PYTHON) -r requirements.txt
	@touch $@

.venv/test.stamp: requirements-dev.txt .venv/run.stamp | $(UV)
	@echo "Installing what the tests need"
	@$(UV) pip install --quiet --python $(VENV_PYTHON) -r requirements.txt -r requirements-dev.txt
	@touch $@

$(UV):
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11, 3.12 or 3.13 is needed, and none of $(PYTHON_NAMES) is one." >&2; \
		echo "Install one, or name yours: make run PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making the virtual environment .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
