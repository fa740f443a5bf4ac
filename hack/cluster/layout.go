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
	"path/filepath"
	"runtime"
	"slices"
)

// Addresses and names that Pods, manifests and tests rely on.
const (
	nodeName = "local"

	bridgeName = "sbx0"
	bridgeIP   = "10.88.0.1" // of the first node
	bridgeBits = "16"

	networkName = "sandbox-local-cluster"
	podCIDR     = "10.88.0.0/16"
	serviceCIDR = "10.96.0.0/16"
	serviceIP   = "10.96.0.1"

	apiServer          = bridgeIP + ":16443"
	registryOpen       = bridgeIP + ":15000"
	registryAuth       = bridgeIP + ":15001"
	registryUser       = "sandbox"
	etcdClient         = "127.0.0.1:12379"
	etcdPeer           = "127.0.0.1:12380"
	controllerManager  = "127.0.0.1:10257"
	scheduler          = "127.0.0.1:10259"
	containerdNS       = "k8s.io"
	pauseImage         = "registry.local/pause:1"
	busyboxImage       = "docker.io/library/busybox:local"
	volumeCount        = 16
	volumeStorageClass = "standard"
)

// layout knows where everything of one cluster lies. All of it is below dir, so that deleting is simple to reason about.
type layout struct {
	dir    string // absolute
	source string // the directory of this Go module
	bin    string // built programs; may be shared between clusters
	// kubernetes is the version of the control plane and the node, as "1.35"; empty: that of go.mod.
	kubernetes string
}

func newLayout(dir, source, bin string) (layout, error) {
	var err error
	if bin == "" {
		bin = filepath.Join(dir, "bin")
	}
	for _, path := range []*string{&dir, &source, &bin} {
		if *path, err = filepath.Abs(*path); err != nil {
			return layout{}, err
		}
	}
	// The kernel reports mounts and executables by their real path, and those are compared with ours.
	for _, path := range []*string{&dir, &source, &bin} {
		if resolved, err := filepath.EvalSymlinks(*path); err == nil {
			*path = resolved
		}
	}
	return layout{dir: dir, source: source, bin: bin}, nil
}

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir}, elem...)...)
}

// exe is a program. The components of another Kubernetes than go.mod's lie in a folder of their own.
func (l layout) exe(name string) string {
	if l.kubernetes != "" && name != "kubectl" && (name == "kube" || slices.Contains(kubernetesComponents, name)) {
		return filepath.Join(l.bin, "kubernetes-"+l.kubernetes, name)
	}
	return filepath.Join(l.bin, name)
}

// chosenFile holds the Kubernetes of a cluster that is up.
func (l layout) chosenFile() string { return l.path("kubernetes") }

func (l layout) kubeconfig() string        { return l.path("kubeconfig") }
func (l layout) pki(name string) string    { return l.path("pki", name) }
func (l layout) config(name string) string { return l.path("config", name) }
func (l layout) log(name string) string    { return l.path("logs", name+".log") }
func (l layout) containerdSocket() string  { return l.path("containerd", "containerd.sock") }
func (l layout) passwordFile() string      { return l.path("registry", "auth-password") }
func (l layout) debian(path string) string { return l.path("debian", path) }

// state is what `down` deletes. Not in it: bin, debian and images (dear to make, the same next time) and logs.
func (l layout) state() []string {
	return []string{
		l.path("cluster.env"), l.path("kubernetes"), l.kubeconfig(), l.path("config"), l.path("pki"), l.path("etcd"), l.path("containerd"),
		l.path("cni"), l.path("kubelet"), l.path("registry"), l.path("volumes"), l.path("loaded"), l.path("nodes"), l.path("run"),
	}
}

// socketRoom is how long dir may be: a Unix socket's path has at most 107 bytes (unix(7)), and the longest one of the
// cluster is that of another node's containerd. The next one is the kubelet's for pod resources, kubelet.sock.sock.
const socketRoom = 107 - len("/nodes/local-2/containerd/containerd.sock")

func goarch() string { return runtime.GOARCH }
