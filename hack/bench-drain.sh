#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Measures the drain of a node with sandboxes on a local cluster of two nodes, with the server of this checkout. A cluster
# that is up already is used and left, with a second node; otherwise one is started and ended. BENCH_FLAGS are further flags
# (see test/bench/drain).

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

"${cluster}" up --dir "${CLUSTER_DIR}" --nodes 2
HINTS=false hack/deploy.sh apply

set -o allexport
# shellcheck source=/dev/null
source "${CLUSTER_DIR}/cluster.env"
set +o allexport
# shellcheck disable=SC2086
go run ./test/bench/drain ${BENCH_FLAGS:-}
