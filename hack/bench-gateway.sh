#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Measures what lifecycle-gateway adds on the local cluster, with the programs of this checkout. A cluster that is up already is
# used and left; otherwise one is started and ended. BENCH_FLAGS are further flags (see test/bench/gateway).

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CLUSTER_DIR=${CLUSTER_DIR:-.cluster}
cluster=${CLUSTER_DIR}/bin/cluster

ours=true
[[ ! -f ${CLUSTER_DIR}/cluster.env ]] || ours=false
finish() {
    local code=$?
    [[ ${ours} == false ]] || "${cluster}" down --dir "${CLUSTER_DIR}" || code=1
    exit "${code}"
}
trap finish EXIT

"${cluster}" up --dir "${CLUSTER_DIR}"
HINTS=false hack/deploy.sh apply
mkdir -p bin/bench-gateway
# execd runs in a container that has no libc.
CGO_ENABLED=0 go build -o bin/bench-gateway/ ./cmd/lifecycle-gateway ./cmd/execd
(
    set -o allexport
    # shellcheck source=/dev/null
    source "${CLUSTER_DIR}/cluster.env"
    # shellcheck disable=SC2086
    go run ./test/bench/gateway --bin bin/bench-gateway ${BENCH_FLAGS:-}
)
