//go:build e2e

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

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// settling is how long what a step leaves may be in the way of what holds.
const settling = time.Minute

// mustHold checks what holds whatever has happened in the room.
func (r *room) mustHold() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settling)
	defer cancel()
	// Of the last scene that could be read; an error of a look that came too late says nothing.
	problems, read := []string(nil), false
	for {
		s, err := r.look(ctx)
		switch {
		case err == nil:
			if problems, read = s.problems(), true; len(problems) == 0 {
				return
			}
		case !read:
			problems = []string{err.Error()}
		}
		if pauseBriefly(ctx) != nil {
			break
		}
	}
	for _, problem := range problems {
		r.t.Errorf("namespace %s, for a minute: %s", r.namespace, problem)
	}
}

// look reads all that there is of the room's sandboxes.
func (r *room) look(ctx context.Context) (*scene, error) {
	s := &scene{now: time.Now(), reset: map[string]bool{}, refusals: map[string]string{}}
	var err error
	// What is frozen first: whatever that is for is seen after it.
	if s.frozen, err = r.frozen(ctx, r.namespace); err != nil {
		return nil, err
	}
	pods, err := r.kube.CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the Pods: %w", err)
	}
	snapshots, err := r.snapshots().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the snapshots: %w", err)
	}
	sandboxes, err := r.sandboxes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the sandboxes: %w", err)
	}
	events, err := r.kube.CoreV1().Events(r.namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=" + v1alpha1.ReasonFilesystemReset})
	if err != nil {
		return nil, fmt.Errorf("list the events: %w", err)
	}
	for i := range events.Items {
		s.reset[events.Items[i].InvolvedObject.Name] = true
	}
	s.pods, s.snapshots, s.sandboxes = pods.Items, snapshots.Items, sandboxes.Items
	if s.jobs, err = r.jobs(ctx); err != nil {
		return nil, err
	}
	if s.jobPods, err = r.jobPods(ctx); err != nil {
		return nil, err
	}
	if s.leases, err = r.commitLeases(ctx); err != nil {
		return nil, err
	}
	s.uploads = r.uploads(s.jobPods)
	for i := range s.sandboxes {
		sandbox := &s.sandboxes[i]
		s.reset[sandbox.Name] = s.reset[sandbox.Name] || meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionDataLost) != nil
		s.refusals[sandbox.Name] = r.leadsOn(ctx, sandbox)
	}
	s.readings, err = r.readings(ctx, s.sandboxes)
	return s, err
}

// commitLeases are the UIDs of the snapshots whose commits hold something in containerd.
func (c *cluster) commitLeases(ctx context.Context) (snapshots []string, err error) {
	all, err := c.containerd.LeasesService().List(namespaces.WithNamespace(ctx, "k8s.io"))
	if err != nil {
		return nil, fmt.Errorf("list the leases of containerd: %w", err)
	}
	for _, lease := range all {
		if snapshot, is := strings.CutPrefix(lease.ID, "image-committer-"); is {
			snapshots = append(snapshots, snapshot)
		}
	}
	return snapshots, nil
}

// uploads are what the open registry has of the room's uploads once nobody is at work. A committer that is killed takes none
// back, and the registry keeps them for as long as it is told to. Of one that is taken back distribution keeps an empty shell,
// the state of its checksum: it closes the upload once more after it has deleted it.
func (r *room) uploads(jobPods []corev1.Pod) []string {
	if r.killedCommitter {
		return nil
	}
	for i := range jobPods {
		state := committerState(&jobPods[i])
		if jobPods[i].Labels[v1alpha1.LabelComponent] == "commit" && (state == nil || state.Terminated == nil || state.Terminated.ExitCode == 137) {
			return nil
		}
	}
	left, _ := filepath.Glob(clusterDir() + "/registry/open/docker/registry/v2/repositories/*/" + r.namespace + "/*/_uploads/*/data")
	return left
}

// leadsOn says what the verbs answer to a dry run where none of them is taken.
func (r *room) leadsOn(ctx context.Context, sandbox *v1alpha1.Sandbox) (refusals string) {
	if sandbox.DeletionTimestamp != nil {
		return ""
	}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	for _, try := range []func() error{
		func() error {
			_, err := r.sandboxes().Resume(ctx, sandbox.Name, &v1alpha1.SandboxResume{}, dry)
			return err
		},
		func() error {
			_, err := r.sandboxes().Pause(ctx, sandbox.Name, &v1alpha1.SandboxPause{}, dry)
			return err
		},
		func() error {
			_, err := r.sandboxes().Resume(ctx, sandbox.Name, &v1alpha1.SandboxResume{FromTemplate: true}, dry)
			return err
		},
	} {
		err := try()
		if err == nil || apierrors.IsNotFound(err) {
			return ""
		}
		refusals += err.Error() + "; "
	}
	return refusals
}

// readings are what the writers of the room were told, and what is in the files of sandboxes that run.
func (r *room) readings(ctx context.Context, sandboxes []v1alpha1.Sandbox) (all []reading, err error) {
	for i := range sandboxes {
		sandbox := &sandboxes[i]
		of, writes := r.writers[sandbox.Name]
		if !writes || sandbox.Status.Phase != v1alpha1.SandboxRunning || !meta.IsStatusConditionTrue(sandbox.Status.Conditions, v1alpha1.ConditionReady) {
			continue
		}
		now := reading{sandbox: sandbox.Name, told: of.acknowledged.Load()} // before the file is read
		if meta.IsStatusConditionTrue(sandbox.Status.Conditions, v1alpha1.ConditionDataLost) {
			now.moved = v1alpha1.ConditionDataLost
		}
		var out, problem strings.Builder
		if err := r.exec(ctx, sandbox.Status.PodName, "main", &out, &problem, "sh", "-euc", checkLines); err != nil {
			now.incomplete = fmt.Sprint(out.String(), problem.String(), err)
		} else if now.there, err = strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64); err != nil {
			return nil, err
		}
		all = append(all, now)
	}
	return all, nil
}
