#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Measures pause and resume on the local cluster, with the server of this checkout. A cluster that is up already is used
# and left; otherwise one is started and ended. BENCH_FLAGS are further flags (see test/bench/verbs).

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

# cluster.env names a registry, too, which would be another cluster's to hack/deploy.sh.
measure() (
    set -o allexport
    # shellcheck source=/dev/null
    source "${CLUSTER_DIR}/cluster.env"
    # shellcheck disable=SC2086
    go run ./test/bench/verbs "$@" ${BENCH_FLAGS:-}
)
measure

# Once more with what the node may keep, for what that changes.
HINTS=false EXTRA_ARGS="${EXTRA_ARGS:-} --resume-cache=10Gi" hack/deploy.sh apply
measure --resume-cache
[[ ${ours} == true ]] || HINTS=false hack/deploy.sh apply
