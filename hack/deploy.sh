#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Installs or removes the server. `make deploy` and `make undeploy` call this.
#
# Without REGISTRY: into the local cluster (make cluster-up), with images built from this checkout.
# With REGISTRY: into the cluster of KUBECONFIG, with the images that `make push REGISTRY=…` put there.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage='usage: hack/deploy.sh apply|render|delete

  apply    install, or bring up to date, and wait until the API answers
  render   write the manifests to standard output. Needs kubectl, and no cluster; images that the registry does not have
           (yet) are named by their tags, and without REGISTRY as in an example
  delete   remove all of it; refuses while there are sandboxes, because their Pods would be left behind (FORCE=true does not)

for a cluster of your own:
  REGISTRY                    registry and path of the images, as for `make push`; required
  KUBECONFIG                  the cluster; empty: what kubectl takes by itself
  TAG                         tag of the images (default: the version that `make push` uses)
  SNAPSHOT_REGISTRY           registry and path that snapshots go to (local cluster: its own registry); empty: pauses
                              fail with RegistryNotConfigured
  SNAPSHOT_REGISTRY_INSECURE  "true": plain HTTP, or a certificate that does not verify
  SNAPSHOT_REGISTRY_CA        ConfigMap in sandbox-system whose key ca.crt verifies that registry
  PUSH_SECRET                 Secret in sandbox-system, of type kubernetes.io/dockerconfigjson, for pushing snapshots
  PULL_SECRET                 name of the Secret in the namespaces of the sandboxes, for pulling snapshots
  IMAGE_PULL_SECRET           Secret in sandbox-system for pulling the images of the server itself
  CONTAINERD_SOCKET           socket of containerd on the nodes (default /run/containerd/containerd.sock)
  CONTAINERD_ROOT             root directory of containerd on the nodes (default /var/lib/containerd)
  ANY_KUBERNETES              "true": install on a Kubernetes that is older than what is supported, too
  EXTRA_ARGS                  further flags of the server, separated by spaces
  GATEWAY                     "true": OpenSandbox'\''s Lifecycle API over HTTP, too (local cluster: always). Wants a key first, in the
                              Secret lifecycle-gateway-keys: artifacts/examples/lifecycle-tenant.yaml
  GATEWAY_ARGS                further flags of the gateway, separated by spaces'

namespace=sandbox-system
apiservice=v1alpha1.lifecycle.opensandbox.io
cluster=${CLUSTER_DIR:-.cluster}
registry=${REGISTRY:-}
gateway=${GATEWAY:-}
# Whose key and namespace a local cluster gets, to try the Lifecycle API with.
tenant=demo

say() { printf '%s\n' "$*" >&2; }
die() { say "deploy: $*"; exit 1; }

# Sets kubectl and the folder for the generated kustomization.
choose_cluster() {
    if [[ -n ${registry} ]]; then
        out=bin/deploy
        kubectl=(kubectl)
        command -v kubectl >/dev/null || die "kubectl is not in the PATH"
        # An empty variable is not an unset one to kubectl.
        [[ -n ${KUBECONFIG:-} ]] || unset KUBECONFIG
        "${kubectl[@]}" get --raw /version >/dev/null || die "kubectl cannot reach a cluster; name one with KUBECONFIG=…"
        return
    fi
    out=${cluster}/deploy
    kubectl=("${cluster}/bin/kubectl" --kubeconfig "${cluster}/kubeconfig")
    [[ -f ${cluster}/cluster.env ]] || die "no local cluster is up: run \`make cluster-up\`, or name a registry for a cluster of your own (make deploy KUBECONFIG=… REGISTRY=…)"
    # shellcheck source=/dev/null
    source "${cluster}/cluster.env"
    containerd_socket=${CONTAINERD_ADDRESS#unix://}
    containerd_root=${CONTAINERD_ROOT}
    gateway=true
}

# Sets the images' references for manifests to read: by digest where the registry has them, else by tag, which it
# says.
name_images() {
    local tag=${TAG:-$(hack/version.sh)}
    if [[ -z ${registry} ]]; then
        registry=registry.example.com/sandbox
        say "deploy: without REGISTRY=… the images are named ${registry}/…:${tag}, as an example."
    elif find_images; then
        return
    else
        say "deploy: the images are named by their tags, for their digests are not to be had (above is why). Once \`make push REGISTRY=${registry}\` has put them there, render again: policies and rollbacks want digests."
    fi
    references=$(printf "${registry}/%s:${tag}\n" "${programs[@]}")
}

programs=(sandbox-apiserver image-committer lifecycle-gateway execd)

# The reference of a program's image, with its digest where that is known.
image() { grep "/$1:" <<<"${references}"; }

# Builds the images and imports them into the local cluster, or looks them up in the registry. Sets references, one a line.
find_images() {
    if [[ -n ${registry} ]]; then
        local flags=(-registry "${registry}" -tag "${TAG:-$(hack/version.sh)}")
        [[ ${REGISTRY_INSECURE:-} != true ]] || flags+=(-insecure)
        references=$(go run ./hack/images resolve "${flags[@]}")
        return
    fi
    references=$(go run ./hack/images build -platforms "linux/$(go env GOARCH)" -version "$(hack/version.sh)")
    local program archives=()
    for program in "${programs[@]}"; do
        archives+=(--image-archive "bin/images/${program}.tar")
    done
    "${cluster}/bin/cluster" load --dir "${cluster}" "${archives[@]}" >&2
}

# Lines of a patch that adds flags to the first container.
flag_patch() {
    local flag
    for flag in "$@"; do
        printf '    - {op: add, path: /spec/template/spec/containers/0/args/-, value: "%s"}\n' "${flag//\"/\\\"}"
    done
}

# Lines of a patch that lets the server read one object of its namespace by name.
read_patch() {
    printf '    - {op: add, path: /rules/-, value: {apiGroups: [""], resources: [%s], resourceNames: [%s], verbs: [get]}}\n' "$1" "$2"
}

# Lines of a patch that names the image of the first container. A local image keeps its tag from build to build: its digest is
# what makes the Pod's template differ.
image_patch() {
    [[ -z ${registry} ]] || printf '    - {op: replace, path: /spec/template/spec/containers/0/image, value: "%s"}\n' "$1"
    [[ $1 != *@* ]] || printf '    - {op: add, path: /spec/template/metadata/annotations, value: {lifecycle.opensandbox.io/image-digest: "%s"}}\n' "${1##*@}"
}

# Writes a kustomization over the base or the local overlay.
write_kustomization() {
    local base=artifacts/base flags=() gateway_flags=() reads="" pull=""
    if [[ -z ${registry} ]]; then
        base=artifacts/overlays/local
        flags+=("--containerd-socket-path=${containerd_socket}" "--containerd-root=${containerd_root}")
    else
        flags+=("--image-committer-image=$(image image-committer)")
        gateway_flags+=("--execd-image=$(image execd)")
        [[ -z ${CONTAINERD_SOCKET:-} ]] || flags+=("--containerd-socket-path=${CONTAINERD_SOCKET}")
        [[ -z ${CONTAINERD_ROOT:-} ]] || flags+=("--containerd-root=${CONTAINERD_ROOT}")
        [[ -z ${IMAGE_PULL_SECRET:-} ]] || pull="    - {op: add, path: /imagePullSecrets, value: [{name: ${IMAGE_PULL_SECRET}}]}"
    fi
    [[ -z ${SNAPSHOT_REGISTRY:-} ]] || flags+=("--snapshot-registry=${SNAPSHOT_REGISTRY}")
    [[ ${SNAPSHOT_REGISTRY_INSECURE:-} != true ]] || flags+=(--snapshot-registry-insecure)
    [[ -z ${PULL_SECRET:-} ]] || flags+=("--resume-pull-secret=${PULL_SECRET}")
    if [[ -n ${PUSH_SECRET:-} ]]; then
        flags+=("--snapshot-push-secret=${PUSH_SECRET}")
        reads+=$(read_patch secrets "${PUSH_SECRET}")$'\n'
    fi
    if [[ -n ${SNAPSHOT_REGISTRY_CA:-} ]]; then
        flags+=("--snapshot-registry-ca=${SNAPSHOT_REGISTRY_CA}")
        reads+=$(read_patch configmaps "${SNAPSHOT_REGISTRY_CA}")$'\n'
    fi
    local extra
    read -r -a extra <<<"${EXTRA_ARGS:-}"
    flags+=("${extra[@]}")
    read -r -a extra <<<"${GATEWAY_ARGS:-}"
    gateway_flags+=("${extra[@]}")

    mkdir -p "${out}"
    {
        echo "# Written by hack/deploy.sh."
        echo "apiVersion: kustomize.config.k8s.io/v1beta1"
        echo "kind: Kustomization"
        echo "resources:"
        echo "- $(realpath --relative-to="${out}" "${base}")"
        [[ ${gateway} != true || -z ${registry} ]] || echo "- $(realpath --relative-to="${out}" artifacts/gateway)"
        echo "patches:"
        echo "- target: {kind: StatefulSet, name: sandbox-apiserver}"
        echo "  patch: |"
        image_patch "$(image sandbox-apiserver)"
        flag_patch "${flags[@]}"
        if [[ ${gateway} == true ]]; then
            echo "- target: {kind: Deployment, name: lifecycle-gateway}"
            echo "  patch: |"
            image_patch "$(image lifecycle-gateway)"
            flag_patch "${gateway_flags[@]}"
        fi
        if [[ -n ${reads} ]]; then
            echo "- target: {kind: Role, name: sandbox-apiserver, namespace: ${namespace}}"
            echo "  patch: |"
            printf '%s' "${reads}"
        fi
        if [[ -n ${pull} ]]; then
            echo "- target: {kind: ServiceAccount}"
            echo "  patch: |"
            echo "${pull}"
        fi
    } >"${out}/kustomization.yaml"
}

# Ends where the cluster's Kubernetes is older than what the server supports, before anything of it is there: an API that is
# registered and does not work keeps every namespace from being deleted.
check_kubernetes() {
    local oldest version
    oldest=$(sed -n 's/^const OldestKubernetes = "\(.*\)"$/\1/p' pkg/server/hostcluster.go)
    version=$("${kubectl[@]}" get --raw /version | sed -n 's/.*"gitVersion": *"v\([0-9]*\.[0-9]*\)\..*/\1/p')
    [[ -n ${version} && $(printf '%s\n' "${oldest}" "${version}" | sort --version-sort | head -n 1) != "${oldest}" ]] || return 0
    [[ ${ANY_KUBERNETES:-} != true ]] ||
        { say "deploy: this cluster is Kubernetes ${version}; ${oldest} is the oldest that the server supports. Installing nevertheless."; return 0; }
    die "this cluster is Kubernetes ${version}, and the server supports ${oldest} and later (docs/install.md#kubernetes). Upgrade the cluster; ANY_KUBERNETES=true installs nevertheless"
}

# Ends where the gateway would not start: nothing is installed yet.
check_keys() {
    [[ ${gateway} == true && -n ${registry} && ${GATEWAY_ARGS:-} != *--keys-secret=* && ${GATEWAY_ARGS:-} != *--open-as=* ]] || return 0
    [[ -n $("${kubectl[@]}" --namespace "${namespace}" get secret lifecycle-gateway-keys --ignore-not-found --output=name) ]] ||
        die "GATEWAY=true: there is no Secret lifecycle-gateway-keys in ${namespace}, and without a key in it the gateway does not start. Make a tenant and its key first: artifacts/examples/lifecycle-tenant.yaml says how"
}

# A tenant of the local cluster, as artifacts/examples/lifecycle-tenant.yaml has one: its key is in cluster.env, and in the cluster its
# SHA-256 alone.
make_tenant() {
    local key=${LIFECYCLE_API_KEY:-} entry
    [[ -n ${key} ]] || key=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')
    entry=$(printf '{"sha256": "%s", "user": "%s", "namespace": "%s"}' "$(printf %s "${key}" | sha256sum | cut -d ' ' -f 1)" "${tenant}" "${tenant}")
    "${kubectl[@]}" apply -f artifacts/base/namespace.yaml >/dev/null
    sed "s/team-a/${tenant}/g; s|'{\"sha256.*|'${entry}'|" artifacts/examples/lifecycle-tenant.yaml |
        "${kubectl[@]}" apply -f - | { grep -v -e ' unchanged$' || true; } >&2
    [[ -z ${LIFECYCLE_API_KEY:-} ]] || return 0
    chmod 600 "${cluster}/cluster.env"
    printf "%s='%s'\n" LIFECYCLE_URL "http://${BRIDGE_IP}:30080" LIFECYCLE_API_KEY "${key}" LIFECYCLE_NAMESPACE "${tenant}" >>"${cluster}/cluster.env"
}

apply() {
    choose_cluster
    check_kubernetes
    check_keys
    find_images
    write_kustomization
    [[ -n ${registry} ]] || make_tenant
    "${kubectl[@]}" apply -k "${out}" | { grep -v ' unchanged$' || true; } >&2
    if ! "${kubectl[@]}" --namespace "${namespace}" rollout status statefulset/sandbox-apiserver --timeout=5m >&2 ||
        ! "${kubectl[@]}" wait --for=condition=Available "apiservice/${apiservice}" --timeout=3m >&2 ||
        ! answers; then
        diagnose statefulset/sandbox-apiserver
        die "the server did not come up; what is known is above"
    fi
    if [[ ${gateway} == true ]] &&
        ! "${kubectl[@]}" --namespace "${namespace}" rollout status deployment/lifecycle-gateway --timeout=3m >&2; then
        diagnose deployment/lifecycle-gateway
        die "the gateway did not come up; what is known is above"
    fi
    say "The Sandbox API is served$([[ ${gateway} != true ]] || echo ", and OpenSandbox's Lifecycle API over HTTP")."
    [[ ${HINTS:-true} == true ]] || return 0
    say ""
    say "Try:"
    local shown="kubectl"
    [[ -n ${registry} ]] || shown="export KUBECONFIG=$(realpath "${cluster}/kubeconfig"); kubectl"
    say "  ${shown} api-resources --api-group=lifecycle.opensandbox.io"
    if [[ -z ${registry} ]]; then
        say "  kubectl apply -f artifacts/examples/sandbox.yaml        (or all of it: make demo)"
        say "  source ${cluster}/cluster.env; curl -H \"OPEN-SANDBOX-API-KEY: \${LIFECYCLE_API_KEY}\" \${LIFECYCLE_URL}/v1/sandboxes"
    elif [[ -z ${SNAPSHOT_REGISTRY:-} ]]; then
        say "No SNAPSHOT_REGISTRY was given: sandboxes run, and a pause fails with RegistryNotConfigured."
    fi
}

# The condition may still be that of the Pod before this one: asks until the API answers itself.
answers() {
    local deadline=$((SECONDS + 180))
    local ask=("${kubectl[@]}" get sandboxes.lifecycle.opensandbox.io --all-namespaces --request-timeout=5s)
    until "${ask[@]}" >/dev/null 2>&1; do
        if ((SECONDS > deadline)); then
            "${ask[@]}" >&2
            return
        fi
        sleep 0.5
    done
}

# What a person would look at first.
diagnose() {
    set +o errexit
    say "--- Pods of ${namespace}"
    "${kubectl[@]}" --namespace "${namespace}" get pods -o wide >&2
    say "--- events of ${namespace}"
    "${kubectl[@]}" --namespace "${namespace}" get events --sort-by=.lastTimestamp 2>&1 | tail -n 15 >&2
    say "--- log of $1"
    "${kubectl[@]}" --namespace "${namespace}" logs "$1" --tail=30 >&2
    say "--- log of its previous run"
    "${kubectl[@]}" --namespace "${namespace}" logs "$1" --tail=30 --previous >&2
    say "--- APIService"
    "${kubectl[@]}" get apiservice "${apiservice}" -o 'jsonpath={range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}' >&2
    set -o errexit
}

delete() {
    choose_cluster
    local left kinds=sandboxes.lifecycle.opensandbox.io,sandboxsnapshots.lifecycle.opensandbox.io
    if [[ ${FORCE:-} != true && -n $("${kubectl[@]}" get apiservice "${apiservice}" --ignore-not-found --output=name) ]]; then
        left=$("${kubectl[@]}" get "${kinds}" --all-namespaces --output=name) ||
            die "the server does not answer, so it is not known whether there are sandboxes. To remove it nevertheless and leave their Pods behind: FORCE=true"
        [[ -z ${left} ]] ||
            die "there are still $(wc -l <<<"${left}") sandboxes and snapshots. Delete them while the server can clean up after them: kubectl delete sbx,sbxsnap --all --all-namespaces"
    fi
    # First what is asked of the server by others, so that no eviction waits for one that ends.
    "${kubectl[@]}" delete --ignore-not-found validatingwebhookconfiguration sandbox-apiserver-evictions >&2
    # Both have every object that an overlay may have changed.
    "${kubectl[@]}" delete --ignore-not-found -k artifacts/gateway >&2
    if [[ -z ${registry} ]]; then
        sed "s/team-a/${tenant}/g" artifacts/examples/lifecycle-tenant.yaml | "${kubectl[@]}" delete --ignore-not-found -f - >&2
        sed -i '/^LIFECYCLE_/d' "${cluster}/cluster.env"
    fi
    "${kubectl[@]}" delete --ignore-not-found -k artifacts/base >&2
}

case ${1:-} in
apply) apply ;;
delete) delete ;;
render)
    command -v kubectl >/dev/null || die "kubectl is not in the PATH: it puts the manifests together"
    out=bin/deploy
    name_images
    write_kustomization
    kubectl kustomize "${out}"
    ;;
*) say "${usage}"; exit 2 ;;
esac
