#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Shows a sandbox on a real node lose its Pod and come back with its files. `make demo` calls this; it can be repeated.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cluster=${CLUSTER_DIR:-.cluster}
sandbox=/apis/lifecycle.opensandbox.io/v1alpha1/namespaces/default/sandboxes/demo

bold="" dim="" green="" red="" plain=""
if [[ -t 1 ]]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

times=""
step_begin=0
step_name=""
number=0

# Begins a step: what it is, in a sentence. Ends the one before.
step() {
    end_step
    number=$((number + 1))
    step_name=$1
    step_begin=$(now)
    printf '\n%s%d. %s%s\n' "${bold}" "${number}" "$1" "${plain}"
}

end_step() {
    [[ -n ${step_name} ]] || return 0
    times+=$(printf '  %7s s  %s' "$(since "${step_begin}")" "${step_name}")$'\n'
    step_name=""
}

now() { date +%s%N; }
since() { awk -v from="$1" -v to="$(now)" 'BEGIN {printf "%.1f", (to - from) / 1e9}'; }

# Runs a command and shows it first, so that it can be typed again.
run() {
    show "$@"
    "$@"
}

# The same for a command whose output is of no interest.
run_silently() {
    show "$@"
    "$@" >/dev/null
}

show() { printf '%s$ %s%s\n' "${dim}" "$(shown "$@")" "${plain}"; }

# The command as a person would type it: quoted only where a shell needs that.
shown() {
    local word line=""
    for word in "$@"; do
        [[ ${word} =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word}'"
        line+=" ${word}"
    done
    echo "${line# }"
}

proved() { printf '%s✓ %s%s\n' "${green}" "$*" "${plain}"; }
fail() {
    printf '%s✗ %s%s\n' "${red}" "$*" "${plain}" >&2
    exit 1
}

explain_failure() {
    local code=$?
    [[ ${code} -ne 0 ]] || return 0
    printf '\nThe demo failed at step %d. What there is:\n' "${number}" >&2
    if [[ -f ${cluster}/cluster.env ]]; then
        kubectl get sbx,sbxsnap,pods --namespace default >&2 || true
        kubectl get events --namespace default --sort-by=.lastTimestamp 2>/dev/null | tail -n 10 >&2 || true
    fi
    echo "The cluster, if it is up, is left as it is: KUBECONFIG=${cluster}/kubeconfig. End it with: make cluster-down" >&2
}
trap explain_failure EXIT

# The tasks of containerd, that is its processes: a table with container, PID and status.
tasks() { ctr --namespace k8s.io tasks list 2>/dev/null; } # it warns about cgroup v1 each time

# ---

command -v curl >/dev/null || fail "curl is not in the PATH, it asks the registry: apt-get install curl"

step "A Kubernetes node of its own: kubelet, containerd and a registry, built from source"
if [[ -f ${cluster}/cluster.env ]] && make --silent cluster-status >/dev/null 2>&1; then
    echo "It is up already."
else
    show make cluster-up
    make --silent cluster-up
fi
# shellcheck source=/dev/null
source "${cluster}/cluster.env"
export KUBECONFIG
export CONTAINERD_ADDRESS=${CONTAINERD_ADDRESS#unix://}
PATH=$(realpath "${cluster}/bin"):${PATH}

step "The Sandbox API server, as a Pod on that node"
show make deploy
HINTS=false make --silent deploy

earlier=$(kubectl get sbx demo --ignore-not-found --output=name)
if [[ -n ${earlier} ]]; then
    step "Remove the sandbox of an earlier demo"
    run kubectl delete sbx demo --timeout=120s
fi

step "Create a sandbox"
run kubectl apply -f artifacts/examples/sandbox.yaml
run kubectl wait --for=condition=Ready sbx/demo --timeout=120s
run kubectl get sbx,pods

step "Write files in it, change one of the image's own, delete another"
run kubectl exec demo -- sh -c 'mkdir -p /work/src && echo "written at $(date)" > /work/src/notes.txt && ln -s src/notes.txt /work/latest'
run kubectl exec demo -- sh -c 'echo "sandboxer:x:1000:1000::/work:/bin/sh" >> /etc/passwd && rm /bin/vi'
run kubectl exec demo -- sh -c 'dd if=/dev/urandom of=/work/data bs=1M count=20 2>/dev/null && sha256sum /work/data > /work/data.sha256'
before=$(kubectl exec demo -- sh -c 'cat /work/latest /etc/passwd /work/data.sha256')
container=$(kubectl get pod demo -o 'jsonpath={.status.containerStatuses[0].containerID}')
container=${container#containerd://}
pid=$(tasks | awk -v id="${container}" '$1 == id {print $2}')
[[ -n ${pid} && -d /proc/${pid} ]] || fail "the sandbox's process was not found on the node"
echo "On the node the sandbox is process ${pid}: $(tr '\0' ' ' <"/proc/${pid}/cmdline")"

step "Pause: freeze, commit the files to the registry, remove the Pod"
run_silently kubectl create --raw "${sandbox}/pause" -f /dev/null
run kubectl wait --for=condition=Paused sbx/demo --timeout=180s
run kubectl get sbx,sbxsnap

step "Nothing of it is left on the node"
run kubectl get pods
[[ -z $(kubectl get pods --field-selector metadata.name=demo --output=name) ]] || fail "the Pod is still there"
proved "there is no Pod demo"
[[ ! -e /proc/${pid} ]] || fail "process ${pid} still runs"
proved "process ${pid} is gone"
show ctr --namespace k8s.io tasks list
tasks
[[ -z $(tasks | awk -v id="${container}" '$1 == id') ]] || fail "containerd still runs container ${container}"
proved "containerd does not run ${container:0:12}… any more"

step "Its files are an image in the registry"
snapshot=$(kubectl get sbx demo -o 'jsonpath={.status.snapshotName}')
image=$(kubectl get sbxsnap "${snapshot}" -o 'jsonpath={.status.containers[0].imageUri}')
digest=$(kubectl get sbxsnap "${snapshot}" -o 'jsonpath={.status.containers[0].imageDigest}')
repository=${image#*/}
repository=${repository%:*}
run curl --fail --silent --show-error --head --header 'Accept: application/vnd.oci.image.manifest.v1+json' "http://${image%%/*}/v2/${repository}/manifests/${digest}"
proved "${image} holds ${digest}"

step "Resume: a new Pod of the same name from that image"
run_silently kubectl create --raw "${sandbox}/resume" -f /dev/null
run kubectl wait --for=condition=Ready sbx/demo --timeout=120s
run kubectl get sbx,pods

step "The files are back"
run kubectl exec demo -- cat /work/latest
run kubectl exec demo -- sh -c 'cd /work && sha256sum -c data.sha256'
after=$(kubectl exec demo -- sh -c 'cat /work/latest /etc/passwd /work/data.sha256')
[[ ${before} == "${after}" ]] || fail "the files differ from those before the pause"
proved "what was written is there, to the byte"
kubectl exec demo -- test ! -e /bin/vi || fail "the deleted file is back as well"
proved "what was deleted stays deleted"

# cluster.env has the gateway's address and a key since the server was deployed.
# shellcheck source=/dev/null
source "${cluster}/cluster.env"
export LIFECYCLE_URL LIFECYCLE_API_KEY
key=${cluster}/config/lifecycle.curl
(umask 077 && printf 'header = "OPEN-SANDBOX-API-KEY: %s"\n' "${LIFECYCLE_API_KEY}" >"${key}")

# Node.js that the SDK runs on, with npm.
node_is_there() { command -v npm >/dev/null && node -e 'process.exit(process.versions.node.split(".")[0] >= 20 ? 0 : 1)' 2>/dev/null; }

if node_is_there && rm -rf "${cluster}/sdk" && cp -r test/e2e/sdk "${cluster}/sdk" && npm ci --prefix "${cluster}/sdk" --silent --no-audit --no-fund; then
    step "The same with OpenSandbox's own SDK, as npm has it"
    show node demo.mjs
    node "${cluster}/sdk/demo.mjs"
else
    step "The same with curl (OpenSandbox's SDK wants Node.js 20 and npm, with a registry to have it from)"
    # Asks the Lifecycle API; -d and the like come behind the path.
    ask() { run curl --config "${key}" --fail-with-body --silent --show-error "$@"; }
    # Waits until the answer to a path has a text in it.
    await() {
        local deadline=$((SECONDS + 120)) answer
        until answer=$(curl --config "${key}" --silent "$1") && [[ ${answer} == *"$2"* ]]; do
            ((SECONDS < deadline)) || fail "$1 says ${answer}, nothing of $2"
            sleep 0.2
        done
    }
    created=$(ask -X POST "${LIFECYCLE_URL}/v1/sandboxes" -H 'Content-Type: application/json' -d '{"image": {"uri": "docker.io/library/busybox:local"},
  "entrypoint": ["tail", "-f", "/dev/null"], "resourceLimits": {"cpu": "100m", "memory": "64Mi"}, "timeout": 3600}' | tee /dev/stderr)
    id=$(sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' <<<"${created}")
    await "${LIFECYCLE_URL}/v1/sandboxes/${id}" '"Running"'
    await "${LIFECYCLE_URL}/v1/sandboxes/${id}/proxy/44772/files/info?path=/etc/passwd" '"size"'
    ask -X POST "${LIFECYCLE_URL}/v1/sandboxes/${id}/proxy/44772/command" -H 'Content-Type: application/json' -d '{"command": "echo kept > /root/note"}'
    ask -X POST "${LIFECYCLE_URL}/v1/sandboxes/${id}/pause"
    await "${LIFECYCLE_URL}/v1/sandboxes/${id}" '"Paused"'
    run kubectl get sbx --namespace "${LIFECYCLE_NAMESPACE}"
    ask -X POST "${LIFECYCLE_URL}/v1/sandboxes/${id}/resume"
    await "${LIFECYCLE_URL}/v1/sandboxes/${id}/proxy/44772/files/info?path=/root/note" '"size"'
    read -r note < <(curl --config "${key}" --silent "${LIFECYCLE_URL}/v1/sandboxes/${id}/proxy/44772/files/download?path=/root/note")
    [[ ${note} == kept ]] || fail "the file has ${note}"
    proved "the file that was written before the pause is there"
    ask -X DELETE "${LIFECYCLE_URL}/v1/sandboxes/${id}"
fi
end_step

printf '\n%sHow long each step took%s\n%s' "${bold}" "${plain}" "${times}"
cat <<EOF

The cluster and the sandbox are yours now:
  export KUBECONFIG=$(realpath "${cluster}/kubeconfig") PATH=$(realpath "${cluster}/bin"):\$PATH
  kubectl exec -it demo -- sh
  kubectl create --raw ${sandbox}/pause -f /dev/null >/dev/null
  kubectl get sbx,sbxsnap --watch

And OpenSandbox's Lifecycle API, with the key of a tenant whose sandboxes are in the namespace ${LIFECYCLE_NAMESPACE}:
  source ${cluster}/cluster.env
  curl -H "OPEN-SANDBOX-API-KEY: \$LIFECYCLE_API_KEY" \$LIFECYCLE_URL/v1/sandboxes
  OPEN_SANDBOX_DOMAIN=\${LIFECYCLE_URL#http://} OPEN_SANDBOX_API_KEY=\$LIFECYCLE_API_KEY node your-program.mjs    # with npm's @alibaba-group/opensandbox
End it: make cluster-down
EOF
