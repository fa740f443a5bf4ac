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

package evictionreview

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// Self is the Pod that this server runs in; empty where it runs in none.
type Self struct {
	Namespace, Pod string
}

// askingTakes is how long after the first eviction of a drain the last one may come: all of them are asked for at once, and
// again after 5 s (kubectl) or 10 s (cluster-autoscaler).
const askingTakes = 20 * time.Second

// ownSeen is all that the answer to the eviction of a Pod of our own namespaces is made of.
type ownSeen struct {
	pod *corev1.Pod
	// self says that it is this very server.
	self bool
	// emptied says that somebody empties its node, and sandboxes are those on it.
	emptied   bool
	sandboxes []lifecycle.Sandbox
	// asking is for how long the eviction has been asked for.
	asking time.Duration
}

// decideOwn answers the eviction of a Pod of our own. A drain evicts all Pods of a node at once: the server is the last to go, or
// nobody would answer for the sandboxes beside it, nor save them. A commit is let finish: it ends by itself.
// Neither is ever refused for longer than that takes.
func decideOwn(s ownSeen) answer {
	if s.pod == nil || s.pod.DeletionTimestamp != nil {
		return answer{}
	}
	if component := s.pod.Labels[v1alpha1.LabelComponent]; (component == "commit" || component == "unpause") && s.pod.Status.Phase == corev1.PodRunning {
		return later("a sandbox's files are being saved by this Pod, which ends by itself")
	}
	if !s.self || !s.emptied {
		return answer{}
	}
	saving, others := 0, 0
	for i := range s.sandboxes {
		switch sandbox := &s.sandboxes[i]; {
		case sandbox.DeletionTimestamp != nil, sandbox.Status.PodUID == "":
		case sandbox.Status.Phase == lifecycle.SandboxPausing, sandbox.Status.Move != nil && sandbox.Status.Move.PodUID == sandbox.Status.PodUID:
			saving++
		case sandbox.Status.Phase == lifecycle.SandboxRunning && sandbox.Spec.EvictionPolicy != lifecycle.EvictionPolicyNone:
			others++
		}
	}
	switch {
	case saving > 0:
		return later("the server of the Sandbox API goes last: %d sandboxes of this node are being saved", saving)
	case others > 0 && s.asking < askingTakes:
		return later("the server of the Sandbox API goes last: there are %d sandboxes on this node", others)
	}
	return answer{}
}

// firstAsked remembers since when the eviction of this server is asked for.
type firstAsked struct {
	mu          sync.Mutex
	first, last time.Time
}

// askedAgain is after how long without a question the next one begins anew.
const askedAgain = 2 * time.Minute

func (f *firstAsked) since(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.last) > askedAgain {
		f.first = now
	}
	f.last = now
	return now.Sub(f.first)
}

// answerOwn looks at what matters for a Pod of our own namespaces. What cannot be found out lets it go.
func (r *REST) answerOwn(ctx context.Context, asked eviction) (answer, error) {
	pod, err := r.Cluster.Pod(ctx, asked.namespace, asked.pod)
	if apierrors.IsNotFound(err) {
		return answer{}, nil
	}
	if err != nil {
		return answer{}, fmt.Errorf("reading Pod %s: %w", asked.pod, err)
	}
	s := ownSeen{pod: pod, self: asked.pod == r.Self.Pod && asked.namespace == r.Self.Namespace}
	if s.self {
		if s.emptied, err = r.emptied(ctx, pod.Spec.NodeName); err != nil {
			return answer{}, err
		}
		if s.sandboxes, err = r.on(ctx, pod.Spec.NodeName); err != nil {
			return answer{}, err
		}
		if !asked.dryRun {
			s.asking = r.asked.since(r.Clock.Now())
		}
	}
	answered := decideOwn(s)
	if asked.dryRun && answered.code == http.StatusTooManyRequests {
		return answer{message: "this eviction would be answered with 429 (TooManyRequests): " + answered.message}, nil
	}
	return answered, nil
}
