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
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// heldFile is there once the namespaces of a node have its mounts; wiredFile, once they have a network too, and holds the
// record of the process that they live by.
const (
	heldFile  = "held"
	wiredFile = "wired"
)

// join brings a further node to where it takes Pods, and says whether there was anything to do. Namespaces that are whole
// are gone on with; what an interrupted start or the end of their holder has left of others is ended first. The node's
// disk stays as it is, as after a power cut.
func join(ctx context.Context, l layout, n node, say reporter) (changed bool, err error) {
	fresh := !wired(l, n)
	if fresh {
		if err := leave(ctx, l, n); err != nil {
			return true, fmt.Errorf("clear away what was left of the node %s: %w", n.name(), err)
		}
		if err := prepareNode(l, n); err != nil {
			return true, err
		}
		if err := startStage(ctx, l, []component{holder(l, n)}, say); err != nil {
			return true, err
		}
		if err := wire(ctx, l, n); err != nil {
			return true, err
		}
	}
	for _, stage := range nodeStages(l, n)[1:] {
		started, err := startEnded(ctx, l, stage, say)
		if err != nil {
			return true, err
		}
		changed = changed || started
		if fresh && stage[0].name == n.component("containerd") {
			archives, err := loadedArchives(l)
			if err != nil {
				return true, err
			}
			if err := importInto(ctx, l, n, archives); err != nil {
				return true, err
			}
			say("containerd of %s has the images of the first node", n.name())
		}
	}
	if err := waitNode(ctx, l, n); err != nil {
		return true, err
	}
	if changed || fresh {
		say("the node %s is Ready", n.name())
	}
	return changed || fresh, nil
}

// holder is the process that a node's namespaces live by: this program once more.
func holder(l layout, n node) component {
	return component{
		name: n.component("node"), exe: "/proc/self/exe", args: []string{"hold", "--dir", l.dir, "--node", strconv.Itoa(int(n))},
		apart: true,
		ready: func(context.Context) error {
			_, err := os.Stat(n.home(l, heldFile))
			return err
		},
	}
}

// nodeStages are the programs of a further node in the order of their start.
func nodeStages(l layout, n node) [][]component {
	return [][]component{{holder(l, n)}, {containerd(l, n)}, {kubelet(l, n), kubeProxy(l, n)}}
}

// wired tells whether the node's namespaces are whole and somebody holds them.
func wired(l layout, n node) bool {
	running, err := recorded(l)
	if err != nil {
		return false
	}
	held := running[n.component("node")]
	content, err := os.ReadFile(n.home(l, wiredFile))
	if err != nil {
		return false
	}
	var by process
	return json.Unmarshal(content, &by) == nil && by == held && held.alive()
}

// prepareNode makes what the programs of a further node find when they start.
func prepareNode(l layout, n node) error {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.home(l), 0o755); err != nil {
		return err
	}
	for _, file := range []string{heldFile, wiredFile} {
		if err := os.Remove(n.home(l, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for place, instead := range n.covers(l) {
		for _, directory := range []string{place, instead} {
			if err := os.MkdirAll(directory, 0o755); err != nil {
				return err
			}
		}
	}
	if err := os.Chmod(n.containerd(l), 0o711); err != nil {
		return err
	}
	if err := makeCgroups(n); err != nil {
		return err
	}
	if err := writeNodePKI(l, n); err != nil {
		return err
	}
	return writeNodeConfig(l, n, nodeResolvConf(), runc)
}

// wire connects a node's network namespace with the bridge of the first node: they and their Pods are neighbours on one
// Ethernet. What they send to the world outside goes by way of the machine, under its address.
func wire(ctx context.Context, l layout, n node) error {
	running, err := recorded(l)
	if err != nil {
		return err
	}
	held := running[n.component("node")]
	pid := strconv.Itoa(held.PID)
	inside := []string{"nsenter", "--target", pid, "--net", "ip"}
	for _, step := range []struct {
		command []string
		args    string
	}{
		{[]string{"ip"}, "link add " + n.link() + " type veth peer name eth0 netns " + pid},
		{[]string{"ip"}, "link set " + n.link() + " master " + bridgeName + " up"},
		{inside, "link set lo up"},
		{inside, "link add " + bridgeName + " address " + n.mac() + " type bridge"},
		{inside, "link set eth0 master " + bridgeName + " up"},
		{inside, "address add " + n.ip() + "/" + bridgeBits + " dev " + bridgeName},
		{inside, "link set " + bridgeName + " up"},
		{inside, "route add default via " + bridgeIP},
	} {
		command := slices.Concat(step.command, strings.Fields(step.args))
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("make the network of %s: %s: %w: %s", n.name(), strings.Join(command, " "), err, out)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	masquerade := exec.CommandContext(ctx, "nft", "-f", "-")
	masquerade.Stdin = strings.NewReader(fmt.Sprintf(`table %[1]s
delete table %[1]s
table %[1]s {
	chain postrouting {
		type nat hook postrouting priority srcnat
		ip saddr %[2]s ip daddr != { %[2]s, %[3]s } masquerade
	}
}
`, nodesTable, podCIDR, serviceCIDR))
	if out, err := masquerade.CombinedOutput(); err != nil {
		return fmt.Errorf("have the machine send what comes from %s: nft: %w: %s", n.name(), err, out)
	}
	record, err := json.Marshal(held)
	if err != nil {
		return err
	}
	return writeFile(n.home(l, wiredFile), record, 0o644)
}

// leave ends all that runs of a further node, and its namespaces with it. Its disk stays.
func leave(ctx context.Context, l layout, n node) error {
	running, err := recorded(l)
	if err != nil {
		return err
	}
	for _, names := range [][]string{{"kubelet", "kube-proxy"}, {"containerd"}} {
		if err := stopAll(ctx, running, n, names); err != nil {
			return err
		}
	}
	if err := endContainers(ctx, l, n); err != nil {
		return err
	}
	if err := stopAll(ctx, running, n, []string{"node"}); err != nil {
		return err
	}
	// The kernel takes a namespace's links away some time after its last process, and the new one is to have the name.
	return poll(ctx, 10*time.Second, 50*time.Millisecond, func() error {
		if links, err := filepath.Glob("/sys/class/net/" + n.link()); err != nil || len(links) == 0 {
			return err
		}
		// It may go by itself meanwhile: the next look tells.
		out, _ := exec.CommandContext(ctx, "ip", "link", "delete", n.link()).CombinedOutput()
		return fmt.Errorf("the link %s is still there: %s", n.link(), out)
	})
}

// makeCgroups makes the cgroup below which a further node has those of its Pods, in every hierarchy.
func makeCgroups(n node) error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, hierarchy := range hierarchies {
		if err := os.Mkdir(filepath.Join(hierarchy, n.cgroup()), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// cgroupHierarchies are where cgroups are mounted: one of version 2, or one for each controller.
func cgroupHierarchies() ([]string, error) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		return []string{"/sys/fs/cgroup"}, nil
	}
	lists, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for i := range lists {
		lists[i] = filepath.Dir(lists[i])
	}
	return lists, err
}
