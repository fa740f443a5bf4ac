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
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// node is one of the cluster's machines as Kubernetes sees it, by number. The first is the machine itself; each further
// one has a network and a mount namespace of its own, in which it finds at the paths of the first what is its own. So one
// configuration fits all: where containerd's socket is, for instance.
type node int

const (
	firstNode node = 1
	// maxNodes is how many ranges of addresses the Pods' network is cut into.
	maxNodes = 8
)

func (n node) name() string {
	if n == firstNode {
		return nodeName
	}
	return fmt.Sprintf("%s-%d", nodeName, n)
}

// component is the name of one of its programs, in records and logs.
func (n node) component(name string) string {
	if n == firstNode {
		return name
	}
	return name + "-" + n.name()
}

// third is the third byte of its address, and where its share of the Pods' network begins.
func (n node) third() int { return 256 / maxNodes * int(n-firstNode) }

func (n node) ip() string  { return fmt.Sprintf("10.88.%d.1", n.third()) }
func (n node) mac() string { return fmt.Sprintf("02:0a:58:00:%02x:01", n.third()) }

// podRange is the first and the last address that its Pods get.
func (n node) podRange() (first, last string) {
	return fmt.Sprintf("10.88.%d.2", n.third()), fmt.Sprintf("10.88.%d.254", n.third()+256/maxNodes-1)
}

// local is where its programs listen for those who look after them: what is loopback in another network namespace cannot
// be asked from here.
func (n node) local() string {
	if n == firstNode {
		return "127.0.0.1"
	}
	return n.ip()
}

func (n node) kubeletAPI() string    { return n.ip() + ":10250" }
func (n node) kubeletHealth() string { return n.local() + ":10248" }
func (n node) proxyHealth() string   { return n.local() + ":10256" }
func (n node) proxyMetrics() string  { return n.local() + ":10249" }

// link is the host's end of the cable to its network.
func (n node) link() string { return "sbx-" + n.name() }

// cgroup is what the cgroups of its Pods lie below, empty for the root.
func (n node) cgroup() string {
	if n == firstNode {
		return ""
	}
	return "kubernetes-" + n.name()
}

// config is the path of one of its configuration files.
func (n node) config(l layout, name string) string {
	if n == firstNode {
		return l.config(name)
	}
	return l.config(filepath.Join(n.name(), name))
}

// pki is the name of one of its certificates.
func (n node) pki(name string) string { return n.component(name) }

// home is what a further node has of its own, as the machine sees it.
func (n node) home(l layout, elem ...string) string {
	return l.path(append([]string{"nodes", n.name()}, elem...)...)
}

// containerd is the directory of its containerd, as the machine sees it; the node itself finds it where the first has its.
func (n node) containerd(l layout, elem ...string) string {
	if n == firstNode {
		return l.path(append([]string{"containerd"}, elem...)...)
	}
	return n.home(l, append([]string{"containerd"}, elem...)...)
}

func (n node) socket(l layout) string { return n.containerd(l, filepath.Base(l.containerdSocket())) }

// covers are the directories that a further node has its own of: where they are for it, and what lies there instead.
func (n node) covers(l layout) map[string]string {
	return map[string]string{
		l.path("containerd"): n.home(l, "containerd"),
		l.path("kubelet"):    n.home(l, "kubelet"),
		l.path("cni"):        n.home(l, "cni"),
		// Kept by `down` as the first node's. A kubelet deletes the logs of Pods that it does not know.
		l.path("logs", "pods"): l.path("logs", "pods-"+n.name()),
		// Programs go there whatever their configuration says.
		filepath.Dir(shimSocketDir):  n.home(l, "run"),
		filepath.Dir(cniResults):     n.home(l, "cni-results"),
		filepath.Dir(kubeletPlugins): n.home(l, "kubelet-plugins"),
		kubeletLogLinks:              n.home(l, "log-links"),
	}
}

// furtherNodes are those that have been added to this cluster, wholly or not.
func furtherNodes(l layout) []node {
	var found []node
	for n := firstNode + 1; n <= maxNodes; n++ {
		if _, err := os.Stat(n.home(l)); err == nil {
			found = append(found, n)
		}
	}
	return found
}

// chooseNodes is how many nodes the cluster is to have: those that it has, if nobody asks for more.
func chooseNodes(l layout, asked string) (node, error) {
	have := firstNode
	if further := furtherNodes(l); wasUp(l) && len(further) > 0 {
		have = further[len(further)-1]
	}
	if asked == "" {
		return have, nil
	}
	count, err := strconv.Atoi(asked)
	switch {
	case err != nil || count < 1 || count > maxNodes:
		return 0, fmt.Errorf("a cluster has 1 to %d nodes, not %q", maxNodes, asked)
	case node(count) < have:
		return 0, fmt.Errorf("the cluster in %s has %d nodes and gets more, never fewer: `down` ends it, then choose again", l.dir, have)
	}
	return node(count), nil
}
