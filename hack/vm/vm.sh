#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# A virtual machine that joins the running local cluster as the node `vm`: Debian with its own kernel, cgroups of version 2
# and systemd as their driver, as nodes in production have them. `make e2e-vm` calls this. All of it lies in CLUSTER_DIR/vm.

set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

usage='usage: hack/vm/vm.sh COMMAND

  build           make what is missing: the image of the root file system, runc
  up runc|crun    start the machine with this runtime, and wait until its node is Ready
  run COMMAND     run a command on it as root
  log             write its log: kernel, systemd, containerd, kubelet
  down            end it, and take its node and its cable away

  VM_ACCEL        how QEMU runs it: tcg (emulation, the default) or kvm
  VM_MEMORY       in MiB (default 2048)'

# What it is made of. Debian gives the newest fix of its release; `up` says which.
suite=trixie
runc_version=v1.5.3
packages=systemd,systemd-sysv,dbus,udev,kmod,linux-image-cloud-amd64,nftables,iproute2,crun,libseccomp2,procps,mount,openssh-server

# Its place on the network of the local cluster: the last eighth of the Pods' range.
bridge=sbx0
cable=sbx-vm
node=vm
address=10.88.224.1
gateway=10.88.0.1

say() { printf 'vm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

mkdir -p "${CLUSTER_DIR:-.cluster}/vm"
cluster=$(realpath "${CLUSTER_DIR:-.cluster}")
home=${cluster}/vm
kubectl=("${cluster}/bin/kubectl" --kubeconfig "${cluster}/kubeconfig" --request-timeout=20s)

missing() {
    local tool
    for tool in qemu-system-x86_64:qemu-system-x86 debootstrap:debootstrap mkfs.ext4:e2fsprogs jq:jq openssl:openssl \
        ssh:openssh-client ssh-keygen:openssh-client gcc:gcc pkg-config:pkg-config ip:iproute2; do
        command -v "${tool%%:*}" >/dev/null || echo "${tool##*:}"
    done
    [[ -f /usr/share/doc/libc6-dev/copyright ]] || echo libc6-dev
    pkg-config --exists libseccomp 2>/dev/null || echo libseccomp-dev
    [[ -f /usr/share/keyrings/debian-archive-keyring.gpg ]] || echo debian-archive-keyring
}

install_missing() {
    local wanted
    mapfile -t wanted < <(missing | sort -u)
    [[ ${#wanted[@]} -gt 0 ]] || return 0
    say "installing with apt-get: ${wanted[*]} (they stay)"
    local install=(apt-get -q -o Acquire::Retries=3 install --yes --no-install-recommends "${wanted[@]}")
    DEBIAN_FRONTEND=noninteractive timeout 600 "${install[@]}" >"${home}/apt.log" 2>&1 ||
        { apt-get -q update >>"${home}/apt.log" 2>&1 && DEBIAN_FRONTEND=noninteractive timeout 600 "${install[@]}" >>"${home}/apt.log" 2>&1; } ||
        die "installing failed: $(tail -n 5 "${home}/apt.log")"
}

# Where this machine has its packages from.
mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 -E '/debian/?$' ||
        die "apt-get knows no source of Debian's own packages"
}

build_runc() {
    [[ ! -x ${home}/runc-${runc_version} ]] || return 0
    say "building runc ${runc_version}"
    local out=${home}/gobin
    # It enters namespaces before Go runs, in C.
    GOBIN=${out} CGO_ENABLED=1 GOWORK=off timeout 900 nice -n 15 go install -tags seccomp \
        -ldflags "-s -w -X main.version=${runc_version#v}" "github.com/opencontainers/runc@${runc_version}"
    mv "${out}/runc" "${home}/runc-${runc_version}"
    rmdir "${out}"
}

build_root() {
    local stamp
    stamp=$(sha256sum hack/vm/root/*; echo "${suite} ${packages}")
    [[ ! -f ${home}/root.img || $(cat "${home}/root.stamp" 2>/dev/null) != "${stamp}" ]] || return 0
    say "making a root file system of Debian ${suite}: a minute or two"
    local root=${home}/root.tmp
    rm -rf "${root}" "${home}/root.img" "${home}/root.stamp"
    nice -n 15 timeout 1200 debootstrap --variant=minbase --include="${packages}" "${suite}" "${root}" "$(mirror)" >"${home}/debootstrap.log" 2>&1 ||
        die "debootstrap failed: $(tail -n 5 "${home}/debootstrap.log")"
    echo "${node}" >"${root}/etc/hostname"
    echo "127.0.0.1 localhost ${node}" >"${root}/etc/hosts"
    printf 'LABEL=root / ext4 defaults 0 1\nLABEL=node /node ext4 defaults 0 2\n' >"${root}/etc/fstab"
    mkdir -p "${root}/node"
    install -m 0644 hack/vm/root/sshd.conf "${root}/etc/ssh/sshd_config.d/vm.conf"
    install -m 0644 hack/vm/root/node.service "${root}/etc/systemd/system/node.service"
    systemctl --root="${root}" enable --quiet node.service 2>/dev/null ||
        { mkdir -p "${root}/etc/systemd/system/multi-user.target.wants" && ln -sf ../node.service "${root}/etc/systemd/system/multi-user.target.wants/"; }
    # Nothing may start by itself while a test runs.
    local timer
    for timer in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; do
        ln -sf /dev/null "${root}/etc/systemd/system/${timer}"
    done
    cp "${root}"/boot/vmlinuz-* "${home}/vmlinuz"
    cp "${root}"/boot/initrd.img-* "${home}/initrd"
    rm -rf "${root}"/var/cache/apt "${root}"/var/lib/apt/lists
    nice -n 15 mkfs.ext4 -q -F -L root -d "${root}" "${home}/root.img" 2G
    rm -rf "${root}"
    printf '%s\n' "${stamp}" >"${home}/root.stamp"
}

build() {
    [[ $(id -u) == 0 ]] || die "this needs root"
    [[ $(uname -m) == x86_64 ]] || die "only x86_64 is known here"
    install_missing
    build_runc
    build_root
}

# One certificate of the cluster's authority: file, subject, extensions.
issue() {
    local file=$1 subject=$2 extensions=$3
    openssl ecparam -name prime256v1 -genkey -noout -out "${file}.key"
    openssl req -new -key "${file}.key" -subj "${subject}" |
        openssl x509 -req -CA "${cluster}/pki/ca.crt" -CAkey "${cluster}/pki/ca.key" -set_serial "0x$(openssl rand -hex 15)" \
            -days 30 -sha256 -extfile <(printf '%s\n' "${extensions}") -out "${file}.crt" 2>/dev/null
}

# Writes what the node has of its own: programs, certificates, configuration, the images of the cluster. In the machine it
# lies where the cluster's first node has its own, for one --containerd-socket-path is right for all.
lay_out() {
    local disk=$1 runtime=$2 kube=${cluster}/bin/kube chosen=""
    [[ ! -f ${cluster}/kubernetes ]] || chosen=$(cat "${cluster}/kubernetes")
    [[ -z ${chosen} ]] || kube=${cluster}/bin/kubernetes-${chosen}/kube
    mkdir -p "${disk}"/{bin/cni,pki,config/cni,images,containerd,kubelet,cni,logs/pods,run,registry,units}
    chmod 0711 "${disk}/containerd"
    cp "${cluster}"/bin/{containerd,containerd-shim-runc-v2,ctr} "${disk}/bin/"
    cp "${cluster}"/bin/cni/* "${disk}/bin/cni/"
    cp "${kube}" "${disk}/bin/kube"
    ln -s kube "${disk}/bin/kubelet"
    ln -s kube "${disk}/bin/kube-proxy"
    ln -s kube "${disk}/bin/kubectl"
    cp "${home}/runc-${runc_version}" "${disk}/bin/runc"
    cp -r "${cluster}/config/hosts" "${disk}/config/"
    cp "${cluster}/config/kube-proxy.kubeconfig" "${disk}/config/"
    cp "${cluster}/pki/ca.crt" "${disk}/pki/"
    cp "${cluster}"/images/{pause,busybox}.tar bin/images/image-committer.tar "${disk}/images/"
    # For tests that run there.
    cp "${cluster}/kubeconfig" "${cluster}/cluster.env" "${disk}/"
    cp "${cluster}/registry/auth-password" "${disk}/registry/"

    issue "${disk}/pki/kubelet" "/O=system:nodes/CN=system:node:${node}" "extendedKeyUsage=clientAuth"
    issue "${disk}/pki/kubelet-serving" "/O=system:nodes/CN=system:node:${node}" \
        $'extendedKeyUsage=serverAuth\nsubjectAltName=DNS:'"${node},IP:${address}"
    sed -e "s|client-certificate-data: .*|client-certificate: ${cluster}/pki/kubelet.crt|" \
        -e "s|client-key-data: .*|client-key: ${cluster}/pki/kubelet.key|" "${cluster}/kubeconfig" >"${disk}/config/kubelet.kubeconfig"

    local program=${cluster}/bin/runc
    [[ ${runtime} == runc ]] || program=/usr/bin/${runtime}
    sed -e 's|SystemdCgroup = .*|SystemdCgroup = true|' -e "s|BinaryName = .*|BinaryName = '${program}'|" \
        "${cluster}/config/containerd.toml" >"${disk}/config/containerd.toml"
    jq --arg address "${address}" --arg pki "${cluster}/pki" '.address = $address | .cgroupDriver = "systemd" | .resolvConf = "/etc/resolv.conf"
        | .tlsCertFile = $pki + "/kubelet-serving.crt" | .tlsPrivateKeyFile = $pki + "/kubelet-serving.key"
        | .enforceNodeAllocatable = ["pods"]' "${cluster}/config/kubelet.json" >"${disk}/config/kubelet.json"
    jq --arg node "${node}" '.hostnameOverride = $node' "${cluster}/config/kube-proxy.json" >"${disk}/config/kube-proxy.json"
    jq --arg address "${address}" '.plugins[0].ipam.ranges = [[{subnet: "10.88.0.0/16", rangeStart: "10.88.224.2",
        rangeEnd: "10.88.255.254", gateway: $address}]]' "${cluster}/config/cni/10-pods.conflist" >"${disk}/config/cni/10-pods.conflist"

    local file
    for file in hack/vm/node/*; do
        sed -e "s|@DIR@|${cluster}|g" -e "s|@NODE@|${node}|g" -e "s|@ADDRESS@|${address}|g" -e "s|@BRIDGE@|${bridge}|g" \
            -e "s|@GATEWAY@|${gateway}|g" "${file}" >"${disk}/units/$(basename "${file}")"
    done
    chmod 0755 "${disk}/units/start"
    cp "${home}/key.pub" "${disk}/authorized_keys"
    [[ ! -d ${home}/tests ]] || cp -r "${home}/tests" "${disk}/tests"
}

# Whether the machine that is on record runs.
runs() {
    local pid began
    read -r pid began 2>/dev/null <"${home}/qemu.pid" || return 1
    [[ -n ${pid} && $(began_at "${pid}") == "${began}" ]]
}

# When a process began, in the kernel's count: no other one with its number did then.
began_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }

up() {
    local runtime=${1:-runc}
    [[ ${runtime} == runc || ${runtime} == crun ]] || die "up: runc or crun, not ${runtime}"
    [[ -f ${cluster}/cluster.env ]] || die "no local cluster is up: run make cluster-up"
    [[ -f bin/images/image-committer.tar ]] || die "there is no image of the committer: run make images or make deploy"
    ! runs || die "it runs already: hack/vm/vm.sh down"
    down
    build
    rm -f "${home}"/key "${home}/key.pub"
    ssh-keygen -q -t ed25519 -N '' -C vm -f "${home}/key"
    local disk=${home}/node.tmp
    rm -rf "${disk}" "${home}/node.img"
    lay_out "${disk}" "${runtime}"
    nice -n 15 mkfs.ext4 -q -F -L node -d "${disk}" "${home}/node.img" 8G
    rm -rf "${disk}"

    ip tuntap add dev "${cable}" mode tap
    ip link set "${cable}" master "${bridge}" up
    local accel=${VM_ACCEL:-tcg}
    [[ ${accel} != tcg ]] || accel=tcg,thread=multi
    rm -f "${home}/serial.log"
    # The root file system is not written to, but to a file that is gone with the machine.
    TMPDIR=${home} setsid nice -n 15 qemu-system-x86_64 -accel "${accel}" -cpu max -smp 2 -m "${VM_MEMORY:-2048}" -nographic -nodefaults \
        -monitor none -serial "file:${home}/serial.log" -no-reboot \
        -kernel "${home}/vmlinuz" -initrd "${home}/initrd" -append "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1 quiet" \
        -drive "file=${home}/root.img,format=raw,if=virtio,snapshot=on" -drive "file=${home}/node.img,format=raw,if=virtio" \
        -netdev "tap,id=n,ifname=${cable},script=no,downscript=no" -device virtio-net-pci,netdev=n,mac=02:0a:58:e0:00:01 \
        </dev/null >"${home}/qemu.log" 2>&1 &
    echo "$! $(began_at $!)" >"${home}/qemu.pid"
    say "the machine starts (${accel%%,*}), its console is ${home}/serial.log"
    wait_for 300 "it answers at ${address}" run true
    wait_for 300 "its node is Ready" ready
    say "node ${node} is Ready with $(versions "${runtime}")"
}

ready() {
    [[ $("${kubectl[@]}" get node "${node}" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>&1) == True ]]
}

# What a result holds for.
versions() {
    local program=$1
    [[ ${program} != runc ]] || program=${cluster}/bin/runc
    run "echo \"Debian \$(cat /etc/debian_version), kernel \$(uname -r), \$(systemctl --version | head -n 1), cgroups \$(stat -f -c %T /sys/fs/cgroup), \$(${program} --version | head -n 1), \$(${cluster}/bin/containerd --version | cut -d ' ' -f 1,3), \$(${cluster}/bin/kubelet --version)\""
}

wait_for() {
    local seconds=$1 what=$2 end
    shift 2
    end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        runs || die "the machine has ended: $(tail -n 5 "${home}/qemu.log" "${home}/serial.log")"
        ((SECONDS < end)) || { log_tail; die "not within ${seconds} s: ${what}"; }
        sleep 1
    done
}

log_tail() {
    tail -n 20 "${home}/serial.log" >&2
    log 2>/dev/null | tail -n 40 >&2 || true
}

run() {
    timeout "${VM_TIMEOUT:-3600}" ssh -q -i "${home}/key" -o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=20 -o ServerAliveCountMax=15 \
        -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "root@${address}" "$@"
}

log() { VM_TIMEOUT=60 run journalctl --boot --no-pager --output=short-precise; }

down() {
    local pid began deadline
    if runs; then
        read -r pid began <"${home}/qemu.pid"
        kill "${pid}"
        deadline=$((SECONDS + 20))
        while runs && ((SECONDS < deadline)); do sleep 0.2; done
        ! runs || kill -KILL "${pid}"
    fi
    rm -f "${home}/qemu.pid" "${home}/node.img" "${home}/key" "${home}/key.pub"
    rm -rf "${home}/node.tmp"
    [[ ! -e /sys/class/net/${cable} ]] || ip link delete "${cable}"
    [[ ! -f ${cluster}/cluster.env ]] || "${kubectl[@]}" delete node "${node}" --ignore-not-found >/dev/null
}

command=${1:-}
shift || true
case ${command} in
build | up | run | log | down) "${command}" "$@" ;;
*) printf '%s\n' "${usage}" >&2; exit 2 ;;
esac
