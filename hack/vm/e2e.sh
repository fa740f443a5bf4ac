#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs end-to-end tests against a node with cgroups of version 2 and systemd as their driver: a virtual machine that joins the
# local cluster, once with each runtime. The tests run on the machine itself, for they look at its containerd and its
# processes. A cluster that is up already is used and left, otherwise one is started and ended.
#
# RUNTIMES are those to try, E2E_TESTS and NODE_TESTS the names of tests as for `go test -run` ("none" for none).

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

mkdir -p "${CLUSTER_DIR:-.cluster}"
CLUSTER_DIR=$(realpath "${CLUSTER_DIR:-.cluster}")
export CLUSTER_DIR
cluster=${CLUSTER_DIR}/bin/cluster
kubectl=("${CLUSTER_DIR}/bin/kubectl" --kubeconfig "${CLUSTER_DIR}/kubeconfig" --request-timeout=60s)
home=${CLUSTER_DIR}/vm
logs=${CLUSTER_DIR}/logs/vm-$(date -u +%Y%m%dT%H%M%SZ)

# The story of the demo; freeze, kill and thaw; who writes meanwhile.
e2e_tests=${E2E_TESTS:-^(TestFilesSurviveThreePauses|TestEveryContainerOfAPodIsKept|TestNativeSidecars|TestASnapshotOfARunningSandboxDoesNotStopIt|TestNobodyRunsBetweenTheFreezeAndTheEnd|TestAPauseEndsWithoutItsKill|TestWhoeverWritesStandsStill|TestAWriterOutOfReachIsARefusal|TestWhatAnObserverWasToldIsThereAfterResume)$}
node_tests=${NODE_TESTS:-.}
read -r -a runtimes <<<"${RUNTIMES:-runc crun}"

say() { printf 'e2e-vm: %s\n' "$*" >&2; }

ours=true
[[ ! -f ${CLUSTER_DIR}/cluster.env ]] || ours=false

finish() {
    local code=$?
    set +o errexit
    end_machine || code=1
    rm -rf "${home}/tests"
    if [[ ${ours} == true ]]; then
        "${cluster}" down --dir "${CLUSTER_DIR}" || code=1
    fi
    say "logs are in ${logs}"
    exit "${code}"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Keeps the machine's log, and ends it.
end_machine() {
    mkdir -p "${logs}"
    if [[ -f ${home}/qemu.pid ]]; then
        hack/vm/vm.sh log >"${logs}/${runtime:-none}.log" 2>&1
        cp "${home}/serial.log" "${logs}/${runtime:-none}-console.log" 2>/dev/null
    fi
    [[ ! -f ${CLUSTER_DIR}/cluster.env ]] || "${kubectl[@]}" uncordon local >/dev/null
    hack/vm/vm.sh down
}

# Compiles the tests and their programs: there is no compiler on the machine.
compile() {
    rm -rf "${home}/tests"
    mkdir -p "${home}"/tests/{test/e2e,test/node,programs}
    go test -c -ldflags '-s -w' -tags e2e -o "${home}/tests/test/e2e/e2e.test" ./test/e2e
    go test -c -ldflags '-s -w' -tags e2e -o "${home}/tests/test/node/node.test" ./test/node
    go build -ldflags '-s -w' -o "${home}/tests/programs/" ./test/trees/treemaker ./cmd/image-committer ./test/node/inside
    cp -r artifacts "${home}/tests/"
}

# Runs a test program on the machine.
tests() {
    local package=$1 run=$2 parallel=$3
    [[ ${run} != none ]] || return 0
    VM_TIMEOUT=5400 hack/vm/vm.sh run "set -a; . ${CLUSTER_DIR}/cluster.env; CLUSTER_DIR=${CLUSTER_DIR}; PROGRAMS=${CLUSTER_DIR}/tests/programs; CGROUP_DRIVER=systemd; PATIENCE=15m
        CRUN=/usr/bin/crun; PATH=${CLUSTER_DIR}/bin:\$PATH; cd ${CLUSTER_DIR}/tests/test/${package}
        exec ./${package}.test -test.v -test.count=1 -test.timeout=80m -test.parallel=${parallel} -test.run='${run}'" 2>&1 | tee "${logs}/${runtime}-${package}.txt"
}

compile
"${cluster}" up --dir "${CLUSTER_DIR}" # deletes the logs of a former one
mkdir -p "${logs}"
HINTS=false hack/deploy.sh apply
failed=()
for runtime in "${runtimes[@]}"; do
    hack/vm/vm.sh up "${runtime}" 2>&1 | tee "${logs}/${runtime}-node.txt"
    "${kubectl[@]}" cordon local >/dev/null # the server runs there, the sandboxes must not
    tests e2e "${e2e_tests}" 2 || failed+=("${runtime}/e2e")
    # These take each runtime by themselves.
    [[ ${runtime} != "${runtimes[-1]}" ]] || tests node "${node_tests}" 1 || failed+=(node)
    end_machine
done
[[ ${#failed[@]} -eq 0 ]] || { say "failed: ${failed[*]}"; exit 1; }
say "all passed"
