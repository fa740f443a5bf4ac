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

package sandbox

import (
	"context"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// cached shows what another store holds, and writes to the real one.
type cached struct {
	client.Client
	shows client.Reader
}

func (c *cached) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	return c.shows.Get(ctx, key, object, options...)
}

func (c *cached) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	return c.shows.List(ctx, list, options...)
}

// countingReader counts how often it is asked.
type countingReader struct {
	client.Reader
	reads int
}

func (c *countingReader) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	c.reads++
	return c.Reader.Get(ctx, key, object, options...)
}

func (c *countingReader) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	c.reads++
	return c.Reader.List(ctx, list, options...)
}

// shows makes the caches show other objects than the store holds, and counts reads past them.
func (f *fixture) shows(objects ...client.Object) *countingReader {
	late := newFixture(f.T, objects...)
	live := &countingReader{Reader: f.own}
	f.r.Client, f.r.Live = &cached{f.own, late.own}, live
	return live
}

func TestAVisitWithNothingToDoReadsNothing(t *testing.T) {
	pauses := sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1))
	tests := map[string]struct {
		sandbox *v1alpha1.Sandbox
		attempt *v1alpha1.SandboxSnapshot
		want    string
		after   time.Duration
	}{
		"runs":        {sandbox: sandboxIn(v1alpha1.SandboxRunning, onPod), want: "Running pod=demo/pod-1"},
		"is paused":   {pauses, snapshotIn(v1alpha1.SnapshotCommitting), "Pausing pod=demo/pod-1 attempts=1", backstop},
		"waits, says": {sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1), queuedBy), snapshotIn(v1alpha1.SnapshotCommitting, begun), "Pausing Paused=False/Queued pod=demo/pod-1 attempts=1", queuedLag},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			objects := []client.Object{test.sandbox, podOf()}
			if test.attempt != nil {
				objects = append(objects, test.attempt)
			}
			f := newFixture(t, objects...)
			if test.sandbox.Status.Phase == v1alpha1.SandboxRunning {
				// What the Pod looks like is written once.
				test.want = "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1"
				f.visits(test.want)
				settled := &v1alpha1.Sandbox{}
				if err := f.own.Get(t.Context(), client.ObjectKeyFromObject(test.sandbox), settled); err != nil {
					t.Fatal(err)
				}
				settled.ResourceVersion = ""
				objects[0] = settled
			}
			live := f.shows(objects...)
			if result := f.visits(test.want); result.RequeueAfter != test.after {
				t.Errorf("visited again after %s, want %s", result.RequeueAfter, test.after)
			}
			if live.reads > 0 {
				t.Errorf("%d reads past the caches", live.reads)
			}
		})
	}
}

func TestNothingIsDoneOnTheWordOfACache(t *testing.T) {
	t.Run("the cancel is not seen yet", func(t *testing.T) {
		f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod, attempts(1)), podOf())
		live := f.shows(sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1)))
		f.visits("Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1 attempts=1")
		if made := f.snapshots(); made != "" || live.reads == 0 {
			t.Errorf("snapshots %q after %d reads past the cache", made, live.reads)
		}
	})
	t.Run("the end of the commit is not seen yet", func(t *testing.T) {
		pauses := sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, attempts(1))
		f := newFixture(t, pauses, podOf(), snapshotIn(v1alpha1.SnapshotSucceed))
		f.shows(pauses, snapshotIn(v1alpha1.SnapshotCommitting))
		f.visits("Pausing pod=demo/pod-1 attempts=1")
		f.shows(pauses, snapshotIn(v1alpha1.SnapshotSucceed))
		f.visits("Pausing Ready=False/Pausing Paused=False/RemovingPod pod=demo/pod-1 saved=demo-gen1 attempts=1")
	})
}

func TestAKillUnderWayIsNotReadPastTheCaches(t *testing.T) {
	const removed = "Pausing Paused=False/RemovingPod pod=demo/pod-1 saved=demo-gen1 attempts=1"
	f := removingFixture(t, commitPodOf(standsBy))
	live := &countingReader{Reader: f.own}
	f.r.Live = live
	f.visits(removed)
	begun := live.reads
	if begun == 0 {
		t.Error("a kill was begun on the word of a cache")
	}
	if result := f.visits(removed); result.RequeueAfter != backstop {
		t.Errorf("visited again after %s, want %s", result.RequeueAfter, backstop)
	}
	if live.reads != begun {
		t.Errorf("%d reads past the caches while the kill runs", live.reads-begun)
	}
}
