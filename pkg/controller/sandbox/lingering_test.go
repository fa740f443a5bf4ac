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
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// A pause past its point of no return can only wait for its Pod to go; whoever waits for the pause is told for what.
func TestAPodThatDoesNotGo(t *testing.T) {
	finalizers := func(p *corev1.Pod) { p.Finalizers = []string{"example.com/backup"} }
	nodeSilent := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Time{Time: epoch}}}
		p.Status.ContainerStatuses[0].Ready = true
	}
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		late time.Duration
		want string
	}{
		"in time":          {podOf(terminating(1)), lingerTime - time.Second, ""},
		"finalizers":       {podOf(ended, terminating(1), finalizers), lingerTime, "remove its finalizers first: example.com/backup"},
		"a silent node":    {podOf(runs, terminating(1), nodeSilent), lingerTime, "node node-1 has not been heard of since"},
		"it still runs":    {podOf(runs, terminating(1)), lingerTime, "node node-1 has not ended its containers yet (main)"},
		"nobody has said":  {podOf(ended, terminating(1)), lingerTime, "node node-1 has not said that it is gone"},
		"is being deleted": {podOf(ended, finalizers), lingerTime, ""},
	} {
		if got := lingers(test.pod, epoch.Add(time.Hour+test.late)); !strings.Contains(got, test.want) || test.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}

	seen := observation(sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(ended, terminating(1), finalizers)), sees(snapshotIn(v1alpha1.SnapshotSucceed)), after(time.Hour+lingerTime))
	told := decide(seen)
	if told.do != writeStatus || told.event == nil || !strings.Contains(meta.FindStatusCondition(told.status.Conditions, v1alpha1.ConditionPaused).Message, "example.com/backup") {
		t.Fatalf("the pause says %+v", told)
	}
	seen.sandbox = seen.sandbox.DeepCopy()
	seen.sandbox.Status = *told.status
	if again := decide(seen); again.do != wait {
		t.Errorf("and then it does not wait: %s", again.do)
	}
	leaves := &observed{sandbox: seen.sandbox, pod: seen.pod, now: seen.now}
	if gone := leaves.terminating(nil); !strings.Contains(meta.FindStatusCondition(gone.status.Conditions, v1alpha1.ConditionReady).Message, "Pod demo does not go: somebody has to remove its finalizers") {
		t.Errorf("a sandbox that is deleted says %+v", gone.status.Conditions)
	}
}
