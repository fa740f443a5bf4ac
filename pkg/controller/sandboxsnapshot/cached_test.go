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

package sandboxsnapshot

import (
	"context"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// countingReader counts how often it is asked.
type countingReader struct {
	client.Reader
	reads int
}

func (c *countingReader) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	c.reads++
	return c.Reader.Get(ctx, key, object, options...)
}

// cached shows what another store holds, and writes to the real one.
type cached struct {
	client.Client
	shows client.Reader
}

func (c *cached) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	return c.shows.Get(ctx, key, object, options...)
}

func TestACommitUnderWayIsNotReadPastTheCaches(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	f.is(f.visits("demo-gen1"), committing)
	live := &countingReader{Reader: f.own}
	f.r.Live = live
	f.runs(f.hasJobs(commit))
	f.is(f.visits("demo-gen1"), committing)
	if live.reads > 0 {
		t.Errorf("%d reads past the caches while the commit runs", live.reads)
	}

	// What there is to write is decided on what the store holds.
	f.change("demo", canceling)
	f.is(f.visits("demo-gen1"), "Committing Ready=False/Thawing Failed=Unknown/Canceled")
	if live.reads == 0 {
		t.Error("the commit was cancelled on the word of a cache")
	}
}

func TestACacheThatIsBehindACommit(t *testing.T) {
	f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
	snapshot := f.visits("demo-gen1")
	f.is(snapshot, committing)
	pod := f.runs(f.hasJobs(commit))
	behind := newFixture(t, pausing("demo"), copyOf(snapshot))
	before := pod.DeepCopy()
	f.ends(pod, 0, report(snapshot))
	f.is(f.visits("demo-gen1"), succeeded)

	before.ResourceVersion = ""
	f.shows(before)
	f.r.Client = &cached{f.own, behind.own}
	f.is(f.visits("demo-gen1"), succeeded)
	f.r.Client = f.own
	f.is(f.visits("demo-gen1"), succeeded)
	if free, why := f.r.slots.acquire(client.ObjectKey{Namespace: namespace, Name: "next"}, slot{pod: "other", node: "node-1"}, f.r.limits()); !free {
		t.Errorf("the slot of a commit that has ended is taken: %s", why)
	}
}

// TestAJobWhoseEndIsKnownBeforeItsPods: a watch of Jobs may be ahead of that of Pods.
func TestAJobWhoseEndIsKnownBeforeItsPods(t *testing.T) {
	for name, ends := range map[string]struct {
		exitCode  int32
		report    string
		condition batchv1.JobConditionType
		want      string
	}{
		"well":  {0, "", batchv1.JobComplete, succeeded},
		"badly": {1, lastWord, batchv1.JobFailed, "Failed Ready=False/RegistryUnavailable Failed=True/RegistryUnavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, pausing("demo"), podOf("demo"), attemptOf("demo"))
			snapshot := f.visits("demo-gen1")
			f.is(snapshot, committing)
			job := f.hasJobs(commit)
			behind := newFixture(t)
			pod := f.runs(job)
			if ends.report == "" {
				ends.report = report(snapshot)
			}
			f.ends(pod, ends.exitCode, ends.report)
			job.Status.Conditions = []batchv1.JobCondition{{Type: ends.condition, Status: corev1.ConditionTrue}}
			if err := f.host.Status().Update(t.Context(), job); err != nil {
				t.Fatal(err)
			}

			f.r.Jobs.Client = &podless{f.host, behind.host}
			f.is(f.visits("demo-gen1"), ends.want)
			f.hasJobs(commit)
		})
	}
}

// podless lists what another store holds: its cache has not seen a Pod yet.
type podless struct {
	client.Client
	lists client.Reader
}

func (p *podless) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	return p.lists.List(ctx, list, options...)
}

// copyOf is an object that another store can create.
func copyOf(snapshot *v1alpha1.SandboxSnapshot) *v1alpha1.SandboxSnapshot {
	copied := snapshot.DeepCopy()
	copied.ResourceVersion = ""
	return copied
}
