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
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// What is large and does not change is read before the freeze: neither a probe nor a client
// notices that it is large.
func TestAFreezeIsShortHoweverMuchThereIs(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].LivenessProbe = &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}},
			// A freeze of 15 seconds fails it, and a node that has much to do does not.
			PeriodSeconds: 5, FailureThreshold: 3, TimeoutSeconds: 5,
		}
	})
	file := quietFile
	if os.Getenv("NIGHTLY") != "" {
		file = strings.Replace(file, "count=300", "count=1024", 1)
	}
	r.sh("demo", file)
	w := r.startWriter("demo")

	r.takeSnapshot("mine", "demo")
	snapshot := r.awaitSucceed("mine")
	frozen, took := snapshot.Status.FrozenDuration.Duration, snapshot.Status.CompletionTime.Sub(snapshot.Status.StartTime.Time)
	t.Logf("frozen for %s of %s", frozen, took)
	if frozen > took/3 {
		t.Errorf("the snapshot took %s, and the container was frozen for %s of it", took, frozen)
	}
	r.awaitWrites(w, 50)

	r.pause("demo")
	paused, gen := r.awaitPaused("demo")
	if paused.Status.SnapshotAttempts != 1 {
		t.Errorf("paused at last, the sandbox is %s, want it to have been the first attempt", describe(paused))
	}
	// The file, and what changed while it was read.
	if layers := gen.Status.Containers[0].Layers; layers != 2 {
		t.Errorf("there are %d layers, want 2", layers)
	}
	<-w.ended
	r.resume("demo")
	r.awaitReady("demo")
	r.sh("demo", checkBigFile)
	if acknowledged, onDisk := w.acknowledged.Load(), r.lastLine("demo"); onDisk < acknowledged {
		t.Errorf("the last line on disk is %d, the last one acknowledged was %d", onDisk, acknowledged)
	}
}
