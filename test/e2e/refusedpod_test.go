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
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// refuseJobPods makes the API refuse the Pods of commit and unpause Jobs for the room, but not the Jobs, until the
// returned function is called.
func (r *room) refuseJobPods(message string) (allow func()) {
	r.t.Helper()
	allow = r.deny(systemNamespace, admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
		admissionregistrationv1.Validation{
			Expression: fmt.Sprintf("object.metadata.?annotations[?'%s'].orValue('') != '%s'", v1alpha1.AnnotationNamespace, r.namespace), Message: message,
		}, "")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "refused-", Annotations: map[string]string{v1alpha1.AnnotationNamespace: r.namespace}},
		Spec:       newSandbox("x").Spec.Template.Spec,
	}
	eventually(r.t, "such Pods are refused", patience, func(ctx context.Context) (bool, string) {
		err := r.tryPod(ctx, pod)
		return err != nil && strings.Contains(err.Error(), message), fmt.Sprint(err)
	})
	return allow
}

// A commit Job whose Pod is refused says so long before its deadline, and the pause comes about once the Pod is taken.
func TestACommitPodThatIsRefusedIsToldOfAndTriedAgain(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo")
	r.sh("demo", "echo kept > /root/file")
	allow := r.refuseJobPods("no such Pods here")

	began := time.Now()
	r.pause("demo")
	told := r.awaitReason("demo", v1alpha1.ConditionPaused, v1alpha1.ReasonCommitPodRejected)
	t.Logf("told after %s", time.Since(began))
	if message := messageOf(told.Status.Conditions, v1alpha1.ConditionPaused); !strings.Contains(message, "no such Pods here") {
		t.Errorf("the sandbox says %q", message)
	}
	if told.Status.Phase != v1alpha1.SandboxPausing {
		t.Errorf("as soon as the Pod is refused the sandbox is %s", describe(told))
	}
	// The attempt is given up without a Job to thaw, whose Pod would be refused as well.
	r.awaitEvent(corev1.EventTypeWarning, v1alpha1.EventPauseRetry)
	t.Logf("given up after %s", time.Since(began))
	if now := r.get("demo"); now.Status.PodUID != before.Status.PodUID {
		t.Errorf("after the attempt the sandbox is %s", describe(now))
	}
	r.mustNotBeFrozen()

	allow()
	r.awaitPaused("demo")
	r.resume("demo")
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("after resume the file holds %q", got)
	}
}

// A pause whose commit Pod is refused can be cancelled while it still is.
func TestAPauseWhoseCommitPodIsRefusedCanBeCancelled(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo")
	r.refuseJobPods("no such Pods here")
	r.pause("demo")
	r.awaitReason("demo", v1alpha1.ConditionPaused, v1alpha1.ReasonCommitPodRejected)
	r.resume("demo")
	if now := r.awaitReady("demo"); now.Status.PodUID != before.Status.PodUID {
		t.Errorf("after the cancelled pause the sandbox is %s", describe(now))
	}
	r.mustNotBeFrozen()
}
