# What one does with this repository. `make help` lists it.

.DEFAULT_GOAL := help
.PHONY: help run test peers lint docs bench

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 15

run: ## build and start the demonstration; CERTCTL_LISTEN and CERTCTL_DATA_DIR say where
	@exec cargo run --locked -p certctl-server --example demo

test: ## install what the tests need, then check and test everything
	@exec scripts/test

peers: ## install the programs that the tests run against
	@exec scripts/install-peers

lint: ## formatting, house rules, dependency rules, clippy
	@exec scripts/lint

docs: ## the guide, as HTML
	@RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --all-features
	@echo "open $${CARGO_TARGET_DIR:-target}/doc/certctl/index.html"

bench: ## the benches, against their goals; a million rows take some minutes
	@exec cargo bench --locked -p certctl --all-features --bench '*'
