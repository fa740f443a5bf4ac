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

// Package controller holds what the sandbox and the snapshot controllers share.
package controller

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandbox"
)

// Options configures the controllers. Every field has a flag, which is named as it is, but for
// CommitterImage (--image-committer-image), CommitProxy, which the server's own environment says, and Guard.
type Options struct {
	// SnapshotRegistry is where snapshot images go: a registry, optionally with a path
	// ("registry.example.com/sandboxes"). Empty: every pause fails with RegistryNotConfigured.
	SnapshotRegistry string
	// SnapshotRegistryInsecure allows plain HTTP and certificates that do not verify.
	SnapshotRegistryInsecure bool
	// SnapshotRegistryCA is a ConfigMap of CommitJobNamespace whose key ca.crt holds the PEM
	// certificates that the registry is verified with. Empty: the public roots.
	SnapshotRegistryCA string
	// SnapshotPushSecret is a Secret of CommitJobNamespace, of type
	// kubernetes.io/dockerconfigjson. Empty: pushes are anonymous.
	SnapshotPushSecret string
	// ResumePullSecret is the name of a Secret in the sandbox's own namespace, added to the
	// imagePullSecrets of a resumed Pod. Empty: none is added.
	ResumePullSecret string
	// SnapshotImageTemplate makes image references; see ImageTemplate.
	SnapshotImageTemplate string
	// SnapshotBaseRepository is the path below SnapshotRegistry of a repository that keeps the layers of base images,
	// for the commits of other sandboxes; empty: none.
	SnapshotBaseRepository string
	// ImageCheckInterval is about how often it is checked that the images are in the registry that
	// a sandbox's next resume needs. Zero: only when it resumes.
	ImageCheckInterval time.Duration
	// CommitterImage is the image of commit and unpause Jobs. It comes from here alone, never
	// from the API.
	CommitterImage string
	// CommitJobNamespace is where commit and unpause Jobs run: never a sandbox's namespace.
	CommitJobNamespace string
	// CommitPriorityClass is the PriorityClass of commit and unpause Pods. It has to exist, and should preempt nobody:
	// empty is the cluster's default, which may end other Pods for the sake of a commit.
	CommitPriorityClass string
	// CommitJobTimeout bounds a commit, counted from the start of its container.
	CommitJobTimeout time.Duration
	// LayerCompression is that of the layers of snapshots: zstd, or gzip for registries and tools
	// that do not know zstd.
	LayerCompression string
	// CommitProxy are the environment variables that commits reach the registry by: the server's
	// own HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
	CommitProxy []corev1.EnvVar
	// CommitHostNetwork lets commits use the node's network, for a registry that Pods do not reach.
	CommitHostNetwork bool
	// MaxFrozen is for how long a commit may keep containers frozen; zero is what the Pod's probes bear.
	MaxFrozen time.Duration
	// ThawAfter is how long after a commit what it left frozen is thawed on its node, where the server does
	// not come to remove the Pod.
	ThawAfter time.Duration
	// MaxHoles is how many bytes of holes the sparse files of a container may have; zero is no
	// limit.
	MaxHoles resource.QuantityValue
	// ResumeCache is how many bytes of images of paused sandboxes a node may keep for their resume;
	// zero keeps none.
	ResumeCache resource.QuantityValue
	// CommitRuntimes are the runtime handlers whose files a commit can see. A Pod without a
	// runtime class has the handler "".
	CommitRuntimes []string
	// ContainerdSocketPath is containerd's socket on the nodes.
	ContainerdSocketPath string
	// ContainerdRoot is containerd's root directory on the nodes, below which upperdirs lie.
	ContainerdRoot string
	// MoveOnCordon has sandboxes move from a node that is cordoned, though nobody evicts their Pods.
	MoveOnCordon bool
	// MaxCommitsPerNode bounds how many commits run on one node at a time.
	MaxCommitsPerNode int
	// MaxCommits bounds how many commits run at a time.
	MaxCommits int
	// Guard knows whether the cluster keeps its garbage collector from the Pods of sandboxes; nil: it does.
	Guard sandbox.Guard
}
