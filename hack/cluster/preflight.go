/*
Copyright The Sandbox API Server Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// What is needed on the disk, in GB (10^9 bytes): measured, and a little more.
const (
	buildGB = 8 // module cache 2, build cache 4, programs 0.3
	runGB   = 2 // state of a cluster, images, volumes
)

// machine is what preflight looks at.
type machine struct {
	os            string
	root          bool
	kernel        [2]int
	aptGet        bool
	goTool        bool
	built         bool // the programs are there already
	missing       []string
	dir           string
	freeBytes     map[string]uint64 // by what is kept there
	others        []string          // running programs that would be in the way, as a person names them
	takenPorts    []string
	bridgeOwner   *string // the alias of an existing bridge; ours carries the directory of its cluster
	overlaps      []string
	proxyTable    bool
	controllers   []string // cgroup controllers that are missing
	overlayfs     error
	unixSocketMax int
}

// problems returns a sentence with a remedy for everything that would keep a cluster from starting.
func problems(m machine) []string {
	if reason := refusal(m.os, m.root); reason != "" {
		return []string{reason} // most of what follows cannot be seen without being root
	}
	if m.bridgeOwner != nil && *m.bridgeOwner != "" && *m.bridgeOwner != m.dir {
		return []string{fmt.Sprintf("The local cluster in %s is running, and a machine carries one at a time: end it with `make cluster-down` "+
			"where it was started (or by a reboot, if its directory is gone).", *m.bridgeOwner)}
	}
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if m.kernel[0] < 5 || m.kernel[0] == 5 && m.kernel[1] < 13 {
		say("Linux %d.%d is too old, kube-proxy's nftables need 5.13: upgrade the kernel.", m.kernel[0], m.kernel[1])
	}
	if len(m.missing) > 0 && !m.aptGet {
		say("The Debian packages %s are missing and there is no apt-get: install what they hold by your system's means, or use Debian or Ubuntu.", strings.Join(m.missing, ", "))
	}
	if !m.built && !m.goTool {
		say("The node's programs are not built yet and there is no `go` in the PATH: install Go 1.26 or newer, and mind that sudo changes the PATH.")
	}
	for what, free := range m.freeBytes {
		need := uint64(runGB)
		if !m.built {
			need += buildGB
		}
		if free < need*1e9 {
			say("The disk of %s has %.1f GB free, %d GB are needed: free some.", what, float64(free)/1e9, need)
		}
	}
	if len(m.dir) > m.unixSocketMax {
		say("The path %s is too long for the Unix sockets in it, %d characters at most: choose a shorter --dir.", m.dir, m.unixSocketMax)
	}
	for _, other := range m.others {
		say("%s is already running and would be in the way: end it first (`systemctl stop …`; another local cluster: `make cluster-down` where it was started).", other)
	}
	if len(m.takenPorts) > 0 {
		say("Other programs listen on %s: `ss -tlnp` names them; end them.", strings.Join(m.takenPorts, ", "))
	}
	if m.bridgeOwner != nil && *m.bridgeOwner == "" {
		say("There is a network interface %[1]s of something else: take it away with `ip link delete %[1]s`.", bridgeName)
	}
	for _, overlap := range m.overlaps {
		say("%s overlaps the cluster's networks %s and %s: take it down while the cluster runs.", overlap, podCIDR, serviceCIDR)
	}
	if m.proxyTable {
		say("nftables holds the table kube-proxy of another cluster: `nft delete table ip kube-proxy` once that cluster has ended.")
	}
	if len(m.controllers) > 0 {
		say("The cgroup controllers %s are not there: enable them on the kernel's command line (cgroup_enable=…), or mount them.", strings.Join(m.controllers, ", "))
	}
	if m.overlayfs != nil {
		say("The file system of %s cannot carry overlayfs (%v): choose a --dir on ext4 or xfs, not in a container.", m.dir, m.overlayfs)
	}
	return found
}

// refusal says why nothing at all can be done here, or nothing.
func refusal(system string, root bool) string {
	switch {
	case system != "linux":
		return fmt.Sprintf("A node runs on Linux only, this is %s: use a Linux machine or a virtual one.", system)
	case !root:
		return "A node mounts, makes network interfaces and cgroups, so this must run as root: use `sudo env PATH=\"$PATH\" make …` or a root shell."
	}
	return ""
}

// inspect looks at this machine for the cluster l.
func inspect(ctx context.Context, l layout) (machine, error) {
	m := machine{
		os: runtime.GOOS, root: os.Geteuid() == 0, dir: l.dir, built: built(l), unixSocketMax: socketRoom,
		aptGet: hasTool("apt-get"), goTool: hasTool("go"), missing: missingPackages(l), kernel: kernelVersion(),
	}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return m, fmt.Errorf("make the cluster's directory: %w", err)
	}
	m.freeBytes = map[string]uint64{}
	places := map[string]string{l.dir: l.dir}
	if !m.built && m.goTool {
		for _, variable := range []string{"GOMODCACHE", "GOCACHE"} {
			if out, err := exec.CommandContext(ctx, "go", "env", variable).Output(); err == nil {
				places[variable] = strings.TrimSpace(string(out))
			}
		}
	}
	for what, place := range places {
		free, err := freeBytes(place)
		if err != nil {
			return m, err
		}
		m.freeBytes[what] = free
	}
	m.others = runningOthers(l)
	m.takenPorts = takenPorts(ctx)
	if alias, err := os.ReadFile("/sys/class/net/" + bridgeName + "/ifalias"); err == nil {
		owner := strings.TrimSpace(string(alias))
		m.bridgeOwner = &owner
	}
	m.overlaps = overlaps()
	m.proxyTable = nft(ctx, "list", nftTables[0]) == nil
	m.controllers = missingControllers()
	m.overlayfs = tryOverlay(l.path("preflight"))
	return m, nil
}

func kernelVersion() (version [2]int) {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	parts := strings.SplitN(string(release), ".", 3)
	for i := range version {
		if i < len(parts) {
			version[i], _ = strconv.Atoi(parts[i])
		}
	}
	return version
}

// freeBytes measures the file system of a path, or of the nearest directory above it that exists.
func freeBytes(path string) (uint64, error) {
	for {
		var stat syscall.Statfs_t
		err := syscall.Statfs(path, &stat)
		if err == nil {
			return stat.Bavail * uint64(stat.Bsize), nil
		}
		if !errors.Is(err, syscall.ENOENT) || path == filepath.Dir(path) {
			return 0, fmt.Errorf("measure the free space of %s: %w", path, err)
		}
		path = filepath.Dir(path)
	}
}

// runningOthers finds programs that also want to be the node's one kubelet or containerd.
func runningOthers(l layout) []string {
	ours := map[int]bool{}
	records, _ := recorded(l)
	for _, p := range records {
		ours[p.PID] = p.alive()
	}
	var found []string
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || ours[pid] {
			continue
		}
		if state, _, err := procStat(pid); err != nil || state == 'Z' {
			continue
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			continue
		}
		switch strings.TrimSpace(string(name)) {
		case "containerd", "kubelet", "k3s-server", "k0s", "microk8s":
			path, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
			found = append(found, fmt.Sprintf("%s (pid %d, %s)", strings.TrimSpace(string(name)), pid, path))
		}
	}
	return found
}

// takenPorts tries to listen on every address of the cluster. The bridge is not there yet: its ports are tried on all.
func takenPorts(ctx context.Context) []string {
	var taken []string
	var config net.ListenConfig
	for _, address := range []string{
		apiServer, registryOpen, registryAuth, firstNode.kubeletAPI(), etcdClient, etcdPeer, firstNode.kubeletHealth(), controllerManager,
		scheduler, firstNode.proxyHealth(), firstNode.proxyMetrics(),
	} {
		if host(address) == bridgeIP {
			address = fmt.Sprintf("0.0.0.0:%d", port(address))
		}
		listener, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			taken = append(taken, address)
			continue
		}
		_ = listener.Close()
	}
	return taken
}

// overlaps lists the addresses of other interfaces that lie in the cluster's networks (Podman's default is one).
func overlaps() []string {
	var found []string
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		if i.Name == bridgeName {
			continue
		}
		addresses, _ := i.Addrs()
		for _, a := range addresses {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			for _, cidr := range []string{podCIDR, serviceCIDR} {
				// A wider network around ours is no trouble: the more specific route wins.
				if netip.MustParsePrefix(cidr).Contains(prefix.Addr()) {
					found = append(found, fmt.Sprintf("The network %s of the interface %s", prefix, i.Name))
				}
			}
		}
	}
	return found
}

func missingControllers() []string {
	var missing []string
	unified, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	for _, controller := range []string{"cpu", "memory", "pids", "cpuset"} {
		if err == nil && !strings.Contains(" "+strings.TrimSpace(string(unified))+" ", " "+controller+" ") {
			missing = append(missing, controller)
		}
		if _, v1 := os.Stat("/sys/fs/cgroup/" + controller); err != nil && v1 != nil {
			missing = append(missing, controller)
		}
	}
	return missing
}

// tryOverlay mounts what containerd will mount for each container.
func tryOverlay(scratch string) error {
	defer os.RemoveAll(scratch)
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.MkdirAll(filepath.Join(scratch, name), 0o755); err != nil {
			return err
		}
	}
	merged := filepath.Join(scratch, "merged")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", scratch)
	if err := mountOverlay(merged, options); err != nil {
		return err
	}
	return unmount(merged)
}

func hasTool(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		panic(err) // only constants of this program come here
	}
	return h
}

func port(address string) int {
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		panic(err)
	}
	number, err := strconv.Atoi(p)
	if err != nil {
		panic(err)
	}
	return number
}
