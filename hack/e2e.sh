#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs the end-to-end tests on the local cluster with the server of this checkout. A cluster that is up already is used
# and left; otherwise one is started, and ended whatever the tests say. E2E_FLAGS are further flags for `go test`.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CLUSTER_DIR=${CLUSTER_DIR:-.cluster}
cluster=${CLUSTER_DIR}/bin/cluster

# Keeps what a person would ask for after a failure, before the cluster is gone.
collect() {
    local logs kubectl
    logs=${CLUSTER_DIR}/logs/e2e-$(date -u +%Y%m%dT%H%M%SZ)
    kubectl=("${CLUSTER_DIR}/bin/kubectl" --kubeconfig "${CLUSTER_DIR}/kubeconfig" --request-timeout=20s)
    mkdir -p "${logs}"
    "${kubectl[@]}" get nodes,pods,jobs --all-namespaces -o wide >"${logs}/objects.txt" 2>&1
    "${kubectl[@]}" get sbx,sbxsnap --all-namespaces -o yaml >"${logs}/sandboxes.yaml" 2>&1
    "${kubectl[@]}" get events --all-namespaces --sort-by=.lastTimestamp >"${logs}/events.txt" 2>&1
    "${kubectl[@]}" get apiservice v1alpha1.lifecycle.opensandbox.io -o yaml >"${logs}/apiservice.yaml" 2>&1
    "${kubectl[@]}" --namespace sandbox-system describe pods >"${logs}/sandbox-system.txt" 2>&1
    "${kubectl[@]}" --namespace sandbox-system logs statefulset/sandbox-apiserver >"${logs}/server.log" 2>&1
    "${kubectl[@]}" --namespace sandbox-system logs statefulset/sandbox-apiserver --previous >"${logs}/server-previous.log" 2>&1
    "${kubectl[@]}" --namespace sandbox-system logs --selector=app.kubernetes.io/name=lifecycle-gateway --prefix --tail=-1 >"${logs}/gateway.log" 2>&1
    echo "e2e: last lines of the server's log:" >&2
    tail -n 40 "${logs}/server.log" >&2
    echo "e2e: the server's log, objects and events are in ${logs}" >&2
}

finish() {
    local code=$?
    set +o errexit
    [[ ${code} -eq 0 || ! -f ${CLUSTER_DIR}/cluster.env ]] || collect
    if [[ ${ours} == true ]]; then
        "${cluster}" down --dir "${CLUSTER_DIR}" || code=1
    fi
    exit "${code}"
}

ours=true
[[ ! -f ${CLUSTER_DIR}/cluster.env ]] || ours=false
trap finish EXIT

"${cluster}" up --dir "${CLUSTER_DIR}"
for overlay in base gateway overlays/local overlays/high-availability; do
    "${CLUSTER_DIR}/bin/kubectl" kustomize "artifacts/${overlay}" >/dev/null
done
hack/deploy.sh apply

set -o allexport
# shellcheck source=/dev/null
source "${CLUSTER_DIR}/cluster.env"
CLUSTER_DIR=$(realpath "${CLUSTER_DIR}")
set +o allexport
# shellcheck disable=SC2086
go test -tags e2e ./test/e2e/... -count=1 -timeout 60m -parallel 3 ${TEST_FLAGS:-} ${E2E_FLAGS:-}
# Then those that want a second node, which joins only now: where a Pod may be is no question to all the others.
if [[ ${E2E_FLAGS:-} != *-run* && ${E2E_FLAGS:-} != *-skip* ]]; then
    "${cluster}" up --dir "${CLUSTER_DIR}" --nodes 2
    # shellcheck disable=SC2086
    go test -tags e2e ./test/e2e/... -count=1 -timeout 30m -run '^TestTwoNodes' ${TEST_FLAGS:-} ${E2E_FLAGS:-}
fi
# They have a containerd of their own, and want the machine for themselves: of the cluster they use the programs.
# shellcheck disable=SC2086
go test -tags e2e ./test/node/... -count=1 -timeout 20m ${TEST_FLAGS:-} ${E2E_FLAGS:-}
