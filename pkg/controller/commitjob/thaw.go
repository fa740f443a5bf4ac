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

package commitjob

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// Thaw makes sure that nothing a snapshot's commit froze is frozen, and says whether that is
// so by now, or what keeps it from being so, where that is known. It may only be called when the commit Job can freeze no more.
func (r *Runner) Thaw(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (thawed bool, why string, err error) {
	source := SourceIn(snapshot)
	if gone, err := r.sourceGone(ctx, snapshot.Namespace, source); err != nil || gone {
		return gone, "", err
	}
	name := naming.UnpauseJob(snapshot.Namespace, snapshot.Name, snapshot.UID)
	job, err := r.Find(ctx, name, snapshot)
	if err != nil {
		return false, "", err
	}
	if job == nil {
		switch thawed, err := r.thawBeside(ctx, snapshot, source); {
		case err != nil && r.waitsBeside(snapshot):
			return false, "", fmt.Errorf("thaw the containers of Pod %s/%s beside their commit: %w", snapshot.Namespace, source.PodName, err)
		case err != nil:
			log.FromContext(ctx).Info("What a commit left frozen is thawed by a Job, as it could not be beside the commit", "why", err)
		case thawed:
			return true, "", nil
		}
		if err := r.Client.Create(ctx, r.Unpause(snapshot, source)); err != nil && !apierrors.IsAlreadyExists(err) {
			return false, "", fmt.Errorf("create Job %s/%s, which thaws the containers of Pod %s: %w", r.Namespace, name, source.PodName, err)
		}
		return false, "", nil
	}
	pods, err := r.cachedPods(ctx, snapshot, ComponentUnpause)
	if err != nil {
		return false, "", err
	}
	refusal, err := r.refusal(ctx, job.UID)
	if err != nil {
		return false, "", err
	}
	outcome := observeUnreported(job, pods, refusal)
	switch outcome.State {
	case Succeeded:
		return true, "", nil
	case Active:
		return false, outcome.Message, nil
	}
	if job.DeletionTimestamp == nil {
		if err := ignoreGone(r.Client.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground), uidPrecondition(job.UID))); err != nil {
			return false, "", fmt.Errorf("delete Job %s/%s: %w", job.Namespace, job.Name, err)
		}
	}
	return false, "", fmt.Errorf("thaw the containers of Pod %s/%s on node %s: %s; trying again", snapshot.Namespace, source.PodName, source.NodeName, outcome.Message)
}

// besideAgain is for how long a thaw beside a commit is tried again: whoever stands there may be about to end, having thawed
// everything, which its Pod says a moment later.
const besideAgain = 5 * time.Second

// waitsBeside says whether a thaw beside a commit that has failed is to be tried again.
func (r *Runner) waitsBeside(snapshot *v1alpha1.SandboxSnapshot) bool {
	since, known := r.besideFailed.of(snapshot.UID)
	if now := r.Clock.Now(); !known {
		since = now
		r.besideFailed.note(snapshot.UID, now, now.Add(-time.Hour))
	}
	return r.Clock.Since(since) < besideAgain
}

// thawTimeout is how long a thaw beside the commit may take, thawAnswer how much of that it needs to say why it gives up.
const thawTimeout, thawAnswer = 10 * time.Second, 2 * time.Second

// thawCommand is what runs in the container beside the commit.
func (c *Config) thawCommand(source *Source) []string {
	return append([]string{program, "thaw", "--termination-log=-", "--lock=" + killLock, "--timeout=" + (thawTimeout - thawAnswer).String()}, c.sourceArgs(source, false)...)
}

// thawBeside thaws in the container beside the commit, where that is there, or has done it by itself. It needs no new Pod,
// for which a full node has no room, and which a kubelet refuses while its disk is full.
func (r *Runner) thawBeside(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, source *Source) (thawed bool, err error) {
	pod, err := r.committed(ctx, snapshot)
	if err != nil || pod == nil {
		return false, err
	}
	switch standby := ofPod(pod, killName); {
	case standby.Thawed: // it ends after the commit alone
		return true, nil
	case standby.State != Active || !standby.Started:
		return false, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, thawTimeout, fmt.Errorf("no answer came within %s", thawTimeout))
	defer cancel()
	said, _, err := r.Exec.Exec(ctx, client.ObjectKeyFromObject(pod), killName, r.thawCommand(source))
	reported, unreadable := result.Decode([]byte(said))
	switch {
	case unreadable == nil && reported.Error != nil:
		return false, errors.New(reported.Error.Message)
	case unreadable == nil && reported.Thawed:
		return true, nil
	}
	if err = errors.Join(err, unreadable); err == nil {
		err = errors.New("the thaw does not say that nothing is frozen any more")
	}
	return false, err
}

// observeUnreported reads the outcome of a Job whose exit says all there is to say: one that is
// complete needs no report.
func observeUnreported(job *batchv1.Job, pods []corev1.Pod, refusal string) Outcome {
	for _, condition := range job.Status.Conditions {
		if condition.Type == batchv1.JobComplete && condition.Status == corev1.ConditionTrue {
			return Outcome{State: Succeeded, Thawed: true}
		}
	}
	return Observe(job.UID, job, pods, refusal)
}

// sourceGone says whether nothing can be thawed any more of the Pod that was committed: the Pod exists no more, and nor
// does its node, or nobody answers for it. The Pod alone says nothing. Its object goes first where it is deleted without
// grace, and with the first version of the cgroup freezer the kubelet cannot kill what is frozen: the Pod's cgroup is
// above that of the container, which it thaws for it.
func (r *Runner) sourceGone(ctx context.Context, namespace string, source *Source) (bool, error) {
	pod := &corev1.Pod{}
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: source.PodName}, pod)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("read Pod %s/%s: %w", namespace, source.PodName, err)
	}
	if err == nil && pod.UID == source.PodUID {
		return false, nil
	}
	node := &corev1.Node{}
	err = r.Live.Get(ctx, client.ObjectKey{Name: source.NodeName}, node)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("read node %s: %w", source.NodeName, err)
	}
	ready := err == nil && slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	return !ready, nil
}
