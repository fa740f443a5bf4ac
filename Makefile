# SPDX-License-Identifier: Apache-2.0

SHELL := /usr/bin/env bash
.SHELLFLAGS := -o errexit -o nounset -o pipefail -c
.DEFAULT_GOAL := help

# One set of compiled packages for tests, linters and images: with other flags Go compiles every dependency again. The
# race detector needs another: make unit CGO_ENABLED=1 TEST_FLAGS=-race
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(shell go env GOFLAGS) -trimpath)

# The local cluster: a directory with everything that it is.
CLUSTER_DIR ?= .cluster
CLUSTER := $(CLUSTER_DIR)/bin/cluster
# Another Kubernetes than the newest that is supported: make cluster-up KUBERNETES=1.35
KUBERNETES ?=
export KUBERNETES
# More than one node: make cluster-up NODES=2, also while the cluster runs
NODES ?=
export NODES
# The oldest, as the server has it.
OLDEST_KUBERNETES = $(shell sed -n 's/^const OldestKubernetes = "\(.*\)"$$/\1/p' pkg/server/hostcluster.go)

# Images. REGISTRY counts only on make's command line: .cluster/cluster.env sets a variable of that name, the registry of
# the local cluster. PLATFORMS is what `make push` builds for.
REGISTRY =
export REGISTRY
TAG ?= $(VERSION)
PLATFORMS ?= linux/amd64,linux/arm64
VERSION = $(shell hack/version.sh)
REVISION = $(shell git rev-parse --verify --quiet HEAD)

GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := bin/golangci-lint-$(GOLANGCI_LINT_VERSION)

# The modules for those who use the API, which ./... leaves out; go.work has them be of this checkout.
MODULES := ./apis/... ./generated/...

# Further flags for every `go test`, and for the benchmarks.
TEST_FLAGS ?=
export BENCH_FLAGS ?=

##@ Try it

.PHONY: demo
demo: ## Pause and resume a sandbox on a real node: cluster, server, proof. Leaves the cluster running
	@hack/demo.sh

.PHONY: cluster-up
cluster-up: $(CLUSTER) ## Build what is missing and start the local cluster (needs root; KUBERNETES=1.35 for the oldest that is supported; NODES=2, also later, for a second node)
	@$(CLUSTER) up --dir $(CLUSTER_DIR)

.PHONY: cluster-status
cluster-status: $(CLUSTER) ## Show what runs of the local cluster
	@$(CLUSTER) status --dir $(CLUSTER_DIR)

.PHONY: cluster-down
cluster-down: $(CLUSTER) ## End the local cluster and delete its state; keeps its programs and logs
	@$(CLUSTER) down --dir $(CLUSTER_DIR)

##@ Install it

# KUBECONFIG on make's command line means a cluster of your own; a variable of the shell does not.
define need_registry
	@[[ "$(origin KUBECONFIG)" != command* || -n "$(REGISTRY)" ]] || \
		{ echo "make $@: for a cluster of your own name the registry of the images too: REGISTRY=…" >&2; exit 2; }
endef

.PHONY: deploy
deploy: ## Install the server: in the local cluster, or with KUBECONFIG=… REGISTRY=… in your own (hack/deploy.sh lists all)
	$(need_registry)
	@hack/deploy.sh apply

.PHONY: undeploy
undeploy: ## Remove the server again, from the same cluster
	$(need_registry)
	@hack/deploy.sh delete

.PHONY: images
images: ## Build the images as OCI archives in bin/images, without Docker
	@go run ./hack/images build -platforms linux/$$(go env GOARCH) -version "$(VERSION)" -revision "$(REVISION)"

.PHONY: push
push: ## Build the images for PLATFORMS and push them to REGISTRY=…, with the credentials of `docker login`
	@[[ -n "$(REGISTRY)" ]] || { echo "make push: say where to: REGISTRY=registry.example.com/team" >&2; exit 2; }
	@go run ./hack/images push -registry "$(REGISTRY)" -tag "$(TAG)" -platforms "$(PLATFORMS)" -version "$(VERSION)" -revision "$(REVISION)"

##@ Change it

.PHONY: build
build: ## Compile the programs into bin/
	go build -ldflags "-X main.version=$(VERSION)" -o bin/ ./cmd/...

.PHONY: generate
generate: ## Generate deepcopy, defaults, conversion, OpenAPI and clients from the types in apis/, and the HTTP API from its document
	hack/update-codegen.sh

.PHONY: verify-generate
verify-generate: ## Fail when generated code is stale; changes nothing
	hack/verify-codegen.sh

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the linters of .golangci.yml
	$(GOLANGCI_LINT) run ./... $(MODULES)
	cd hack/cluster && $(abspath $(GOLANGCI_LINT)) run --config ../../.golangci.yml . ./pause

.PHONY: unit
unit: ## Run the unit tests (no cluster, no network)
	go test $(TEST_FLAGS) $$(go list ./... $(MODULES) | grep -v -e /generated/ -e /test/)
	go test -C hack/cluster $(TEST_FLAGS) .

# How many inputs each fuzz target gets: one that runs for a time (10s) fails now and then when that is over, before
# Go 1.27 (golang/go#75804).
FUZZTIME ?= 20000x
export FUZZTIME
# How many storms the controllers go through; each has 50 steps.
STORMS ?= 500x
export STORMS

.PHONY: fuzz
fuzz: ## Fuzz what decodes the content of others, each target for FUZZTIME, and the controllers in STORMS
	hack/fuzz.sh

.PHONY: integration
integration: ## Run the serving tests: the real server over an embedded etcd
	go test $(TEST_FLAGS) -count=1 -timeout 20m ./test/integration/...

.PHONY: e2e
e2e: $(CLUSTER) ## Run the end-to-end tests on the local cluster; starts it and ends it, unless it is up already (needs root)
	hack/e2e.sh

.PHONY: e2e-nodes
e2e-nodes: $(CLUSTER) ## Of the end-to-end tests those that want a second node: drains, moves, nodes that are lost (needs root)
	NODES=2 E2E_FLAGS="-run ^TestTwoNodes $(E2E_FLAGS)" hack/e2e.sh

.PHONY: bench
bench: bench-commit bench-verbs bench-drain bench-gateway bench-scale bench-store bench-watch ## Measure: all benchmarks, their numbers in .bench

# The commit whose programs are measured beside this checkout's: make bench-commit BASELINE=v1.0
BASELINE ?=
export BASELINE

.PHONY: bench-commit
bench-commit: build ## Measure commits beside tar | zstd | curl, containerd's own diff and, with BASELINE=COMMIT, another build (needs root; BENCH_FLAGS=--help lists more)
	@CLUSTER_DIR=$(CLUSTER_DIR) hack/bench-commit.sh

.PHONY: bench-verbs
bench-verbs: $(CLUSTER) ## Measure a pause and a resume on the local cluster beside a bare Pod; starts it and ends it, unless it is up already (needs root)
	@hack/bench-verbs.sh

.PHONY: bench-drain
bench-drain: $(CLUSTER) ## Measure the drain of a node with 20 sandboxes beside pausing and resuming them by hand; starts a local cluster of two nodes, unless one is up already (needs root)
	@hack/bench-drain.sh

.PHONY: bench-gateway
bench-gateway: $(CLUSTER) ## Measure what lifecycle-gateway adds to a pause, and to requests and downloads of a sandbox, on the local cluster; starts it and ends it, unless it is up already (needs root)
	@hack/bench-gateway.sh

.PHONY: bench-scale
bench-scale: build $(CLUSTER) ## Measure what a pause and a resume cost among 100, 1,000 and 5,000 sandboxes (BENCH_FLAGS=--help lists more)
	@$(CLUSTER) build --dir $(CLUSTER_DIR)
	@go build -o bin/bench-scale ./test/bench/scale
	@bin/bench-scale --bin $(CLUSTER_DIR)/bin $(BENCH_FLAGS)

.PHONY: bench-store
bench-store: ## Measure what patches of one large sandbox cost the server and its store; beside another build with BASELINE=COMMIT
	@hack/bench-store.sh store

.PHONY: bench-watch
bench-watch: ## Measure what an event costs those who watched before the server started; beside another build with BASELINE=COMMIT
	@hack/bench-store.sh watch

.PHONY: e2e-nightly
e2e-nightly: $(CLUSTER) ## What takes long, many times: trees, writers, hostile content, cycles, 1 GB, a random walk of an hour, the oldest Kubernetes, and a node with cgroup v2 and systemd (needs root; COUNT=… says how many times)
	NIGHTLY=true SEEDS=500 go test $(TEST_FLAGS) -count=1 -timeout 60m ./pkg/committer/...
	FUZZTIME=1x STORMS=20000x hack/fuzz.sh
	NIGHTLY=true go test $(TEST_FLAGS) -count=1 -timeout 20m ./test/integration/ -run ^TestEightClientsPatchTheLargestObject$$
	NIGHTLY=true E2E_FLAGS="-run ^(TestRandomTrees|TestRandomTreesOfAWholePod|TestWhatOthersWroteIntoACommittedContainerIsThereAfterResume|TestResumeCache|TestWhatAnObserverWasToldIsThereAfterResume|TestAHostileContainerIsCommitted|TestManyCyclesStaySmallAndLoseNothing|TestAFreezeIsShortHoweverMuchThereIs|TestBtrfs)$$ -timeout 90m $(E2E_FLAGS)" hack/e2e.sh
	WALK=1h SEED=$${SEED:-$$(date +%s)} E2E_FLAGS="-run ^TestRandomWalk$$ -timeout 90m $(E2E_FLAGS)" hack/e2e.sh
	$(MAKE) e2e-oldest
	$(MAKE) e2e-vm

# What depends on Kubernetes itself: its admission, its kubelet, its garbage collector, its events.
OLDEST_TESTS := TestFilesSurviveThreePauses|TestEveryContainerOfAPodIsKept|TestNativeSidecars|TestNobodyRunsBetweenTheFreezeAndTheEnd|TestAPauseEndsWithoutItsKill|TestPoliciesOfTheServersNamespace|TestAPolicyForbidsPausesByNameAndByTheLabelOfTheNamespace|TestAPolicyWithParametersForbidsPauses|TestTheExamplePolicyJudgesThePerson|TestFiftyCreatesRaceForTheFivePlacesOfAQuota|TestANamespaceWithSandboxesCanBeDeleted|TestAPodThatItsNodeDoesNotTakeWaitsAndSaysWhy|TestAnEvictionIsToldWithItsCause|TestTheRolesThatAreInstalledAllowWhatTheyPromise|TestAReportOfVeryManyContainersComesThroughTheLog|TestASnapshotOfARunningSandboxDoesNotStopIt|TestKubectlShowsAPauseAndAResume|TestAServerThatIsKilledInTheMiddleOfAPauseGoesOnAfterwards|TestAPauseOutlivesTheKubeApiserver|TestARegistryThatWantsCredentials

.PHONY: e2e-oldest
e2e-oldest: $(CLUSTER) ## A part of the end-to-end tests, on the oldest Kubernetes that is supported (needs root)
	KUBERNETES=$(OLDEST_KUBERNETES) E2E_FLAGS="-run ^($(OLDEST_TESTS))$$ $(E2E_FLAGS)" hack/e2e.sh

.PHONY: e2e-vm
e2e-vm: $(CLUSTER) ## A part of the end-to-end tests on a node with cgroup v2 and systemd: a Debian in an emulated machine (needs root, 5 GB, half an hour; RUNTIMES=crun)
	hack/vm/e2e.sh

.PHONY: test
test: $(CLUSTER) ## Everything: lint, verify-generate, unit, fuzz, integration, e2e on a cluster of its own (needs root)
	hack/test.sh

.PHONY: clean
clean: ## Delete what was built in bin/. For the cluster's programs and logs: make cluster-down, then delete .cluster
	rm -rf bin

.PHONY: help
help: ## List all targets
	@awk -F ':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' Makefile

# A program of few dependencies: the toolchain's cache makes asking every time cheap.
.PHONY: $(CLUSTER)
$(CLUSTER):
	@mkdir -p $(@D)
	@go build -C hack/cluster -o $(abspath $@) .

$(GOLANGCI_LINT):
	GOBIN=$(abspath bin)/golangci-lint.install go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv bin/golangci-lint.install/golangci-lint $@
	rmdir bin/golangci-lint.install
