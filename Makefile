# Two commands matter: `make demo` and `make test`. Each does all set-up by itself, from a fresh clone on Debian with Rust.
# Nothing here is the build: that is plain cargo.

MODELS := $(or $(TRTC_MODELS),$(HOME)/.cache/trtc/models)
SMOL   := $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
# What `make demo` and `make bench` build with; `dev` shares its build with the tests.
PROFILE ?= release
TRTC   := target/$(PROFILE:dev=debug)/trtc
DEMO   := target/demo
FUZZ_SECONDS ?= 60
# Tests may unwrap, also in the helper functions that clippy does not recognise as theirs.
TESTS_MAY := $(addprefix -A clippy::,unwrap_used type_complexity needless_range_loop)

.PHONY: help demo test clients bench fmt lint fuzz setup models binary

help:
	@echo 'make demo    build an engine from a real model, run it, and build one for an H100'
	@echo 'make test    every check: format, lints, unit and end-to-end tests, official clients, Schemathesis, fuzz targets for $(FUZZ_SECONDS) s each'
	@echo 'make bench   speed of this machine'"'"'s host device on a real model'
	@echo 'make fmt     format;  make lint: clippy and cargo-deny;  make fuzz FUZZ_SECONDS=600'

setup:
	@scripts/setup.sh

models:
	@scripts/models.sh

binary: setup
	cargo build --profile $(PROFILE) --locked -p trtc

demo: binary
	@scripts/models.sh smollm2
	@scripts/demo.sh "$(TRTC)" "$(SMOL)" "$(DEMO)"

test: setup models lint
	cargo test --locked --workspace
	scripts/clients.sh target/debug/trtc
	scripts/openapi.sh
	scripts/fuzz.sh $(FUZZ_SECONDS)

clients: setup
	cargo build --locked -p trtc
	scripts/clients.sh target/debug/trtc

bench: binary
	@scripts/models.sh smollm2
	@mkdir -p $(DEMO)
	$(TRTC) build "$(SMOL)" -o $(DEMO)/smollm2.engine --target host --precision bf16
	$(TRTC) bench latency $(DEMO)/smollm2.engine --batch 1,8
	$(TRTC) bench prefill $(DEMO)/smollm2.engine --input-len 512
	$(TRTC) bench throughput $(DEMO)/smollm2.engine
	cargo bench --locked -p trtc-benches

fmt:
	cargo fmt --all
	cargo fmt --all --manifest-path tests/fuzz/Cargo.toml

lint: setup
	cargo fmt --all --check
	cargo fmt --all --manifest-path tests/fuzz/Cargo.toml --check
	cargo clippy --locked --workspace -- -D warnings
	cargo clippy --locked --workspace --all-targets -- -D warnings $(TESTS_MAY)
	cargo clippy --locked -p trtc --no-default-features -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --all-features check bans licenses sources; \
	 else echo 'lint: cargo-deny is not installed; licences, duplicates and sources are not checked'; fi

fuzz: setup
	scripts/fuzz.sh $(FUZZ_SECONDS)
