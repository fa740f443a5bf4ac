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
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// hostRecord is what the cluster changes on the machine outside its directory, written before the change is made.
type hostRecord struct {
	BootID  string            `json:"bootID"`
	Sysctls map[string]string `json:"sysctls"` // as they were before
	Absent  []string          `json:"absent"`  // directories that were not there before
	Tables  []string          `json:"tables"`  // nftables' tables that were there before
}

// hostDirectories are what components leave outside their own directories, whatever their configuration says; inner
// ones come first.
var hostDirectories = []string{
	shimSocketDir, filepath.Dir(shimSocketDir),
	cniResults, filepath.Dir(cniResults),
	kubeletLogLinks,
	kubeletPlugins, filepath.Dir(kubeletPlugins),
}

const (
	cniResults      = "/var/lib/cni/results"
	kubeletLogLinks = "/var/log/containers"
	kubeletPlugins  = "/var/lib/kubelet/device-plugins"
)

// sysctls are what kubelet, kube-proxy and the CNI bridge set on their own.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	"net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet",
}

// nftTables are kube-proxy's, the CNI bridge's and our own, each a family and a name.
var nftTables = []string{"ip kube-proxy", "ip6 kube-proxy", "inet cni_plugins_masquerade", nodesTable}

// nodesTable is for what further nodes send to the world outside.
const nodesTable = "ip sandbox-nodes"

// nft runs a command on one table.
func nft(ctx context.Context, verb, table string) error {
	if out, err := exec.CommandContext(ctx, "nft", append([]string{verb, "table"}, strings.Fields(table)...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("nft %s table %s: %w: %s", verb, table, err, out)
	}
	return nil
}

func hostRecordFile(l layout) string { return l.path("run", "host.json") }

func recordHost(ctx context.Context, l layout) error {
	record := hostRecord{BootID: bootID(), Sysctls: map[string]string{}}
	for _, name := range sysctls {
		if value, err := os.ReadFile("/proc/sys/" + name); err == nil {
			record.Sysctls[name] = strings.TrimSpace(string(value))
		}
	}
	for _, table := range nftTables {
		if nft(ctx, "list", table) == nil {
			record.Tables = append(record.Tables, table)
		}
	}
	for _, directory := range hostDirectories {
		if _, err := os.Lstat(directory); errors.Is(err, os.ErrNotExist) {
			record.Absent = append(record.Absent, directory)
		}
	}
	content, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return writeFile(hostRecordFile(l), content, 0o644)
}

func makeBridge(ctx context.Context, l layout) error {
	for _, args := range [][]string{
		{"link", "add", bridgeName, "address", firstNode.mac(), "type", "bridge"},
		{"link", "set", bridgeName, "alias", l.dir}, // whose it is
		{"address", "add", bridgeIP + "/" + bridgeBits, "dev", bridgeName},
		{"link", "set", bridgeName, "up"},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("make the bridge %s: ip %s: %w: %s", bridgeName, strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// restoreHost takes back what the cluster has changed outside its directory. After a reboot only files are left of it.
func restoreHost(ctx context.Context, l layout) error {
	content, err := os.ReadFile(hostRecordFile(l))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var record hostRecord
	if err := json.Unmarshal(content, &record); err != nil {
		return fmt.Errorf("read %s: %w", hostRecordFile(l), err)
	}
	removeStrayFiles(l)
	if slices.Contains(record.Absent, kubeletPlugins) {
		_ = os.Remove(filepath.Join(kubeletPlugins, "kubelet.sock")) // a killed kubelet leaves it
	}
	for _, directory := range record.Absent {
		_ = syscall.Rmdir(directory) // only if nothing else has come into it
	}
	if record.BootID != bootID() {
		return nil
	}
	var failed []error
	for _, table := range nftTables {
		if !slices.Contains(record.Tables, table) && nft(ctx, "list", table) == nil {
			failed = append(failed, nft(ctx, "delete", table))
		}
	}
	if alias, err := os.ReadFile("/sys/class/net/" + bridgeName + "/ifalias"); err == nil && strings.TrimSpace(string(alias)) == l.dir {
		// The kernel removes a Pod's end of a pair some time after the Pod's network namespace.
		err := poll(ctx, 10*time.Second, 50*time.Millisecond, func() error {
			ports, _ := os.ReadDir("/sys/class/net/" + bridgeName + "/brif")
			if len(ports) > 0 {
				return fmt.Errorf("%d interfaces of Pods are still on the bridge %s, %s among them", len(ports), bridgeName, ports[0].Name())
			}
			return nil
		})
		if err != nil {
			failed = append(failed, err)
		}
		if out, err := exec.CommandContext(ctx, "ip", "link", "delete", bridgeName).CombinedOutput(); err != nil {
			failed = append(failed, fmt.Errorf("ip link delete %s: %w: %s", bridgeName, err, out))
		}
	}
	for name, before := range record.Sysctls {
		now, err := os.ReadFile("/proc/sys/" + name)
		if err != nil || strings.TrimSpace(string(now)) == before {
			continue
		}
		if err := os.WriteFile("/proc/sys/"+name, []byte(before), 0); err != nil {
			failed = append(failed, fmt.Errorf("set %s back to %s: %w", name, before, err))
		}
	}
	return errors.Join(failed...)
}

// removeStrayFiles deletes this cluster's files in directories that it may share with others.
func removeStrayFiles(l layout) {
	results, _ := filepath.Glob(filepath.Join(cniResults, networkName+"-*"))
	for _, result := range results {
		_ = os.Remove(result)
	}
	links, _ := filepath.Glob(filepath.Join(kubeletLogLinks, "*.log"))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, l.path("logs")+"/") {
			_ = os.Remove(link)
		}
	}
}

// mountsBelow lists the mount points in a directory, the directory itself included, the innermost first.
func mountsBelow(directory string) ([]string, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(content), directory), nil
}

// parseMounts reads proc_pid_mountinfo(5): field 5 is the mount point, with spaces and the like as octal escapes.
func parseMounts(mountinfo, directory string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	for _, line := range strings.Split(mountinfo, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if point := unescape.Replace(fields[4]); point == directory || strings.HasPrefix(point, directory+"/") {
			found = append(found, point)
		}
	}
	slices.Reverse(found) // the kernel lists them in the order of mounting
	return found
}

// unmountBelow leaves no mount in a directory. Only then may anything in it be deleted.
func unmountBelow(directory string) error {
	// A mount on a mount shows up only after the upper one is gone, so look again until there is nothing.
	for range 10 {
		mounts, err := mountsBelow(directory)
		if err != nil || len(mounts) == 0 {
			return err
		}
		for _, point := range mounts {
			_ = unmount(point) // what is left is seen below
		}
	}
	mounts, err := mountsBelow(directory)
	if err == nil && len(mounts) > 0 {
		err = fmt.Errorf("%s cannot be unmounted, so nothing is deleted: see `fuser -vm %s`", mounts[0], mounts[0])
	}
	return err
}

// removeCgroups removes the kubelets' empty cgroups in every hierarchy. rmdir(2) on a cgroup with processes fails.
func removeCgroups(ctx context.Context) error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	names := []string{"kubepods"}
	for n := firstNode + 1; n <= maxNodes; n++ {
		names = append(names, n.cgroup())
	}
	for _, hierarchy := range hierarchies {
		for _, name := range names {
			err := poll(ctx, 10*time.Second, 50*time.Millisecond, func() error { return removeTree(filepath.Join(hierarchy, name)) })
			if err != nil {
				return fmt.Errorf("remove the cgroups of the Pods: %w", err)
			}
		}
	}
	return nil
}

// removeTree removes a tree of directories, innermost first, and no file.
func removeTree(root string) error {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(root, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(root); err != nil && !errors.Is(err, syscall.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: root, Err: err}
	}
	return nil
}
