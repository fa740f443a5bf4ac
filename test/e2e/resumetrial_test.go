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
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// A policy takes the template's image, and not that of a snapshot, which is another registry's.
func TestADryRunAndAPauseTellOfAResumeThatWouldBeRefused(t *testing.T) {
	t.Parallel()
	k := newKubectl(t)
	k.start("demo")
	allow := k.deny(k.namespace, admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
		admissionregistrationv1.Validation{Expression: "object.spec.containers.all(c, c.image.startsWith('docker.io/library/'))", Message: "only images of docker.io/library may run"}, "")
	const words = "only images of docker.io/library may run"
	eventually(t, "the dry run warns", patience, func(context.Context) (bool, string) {
		said, warned, err := output(k.command("", "create", "--raw", k.path("demo", "pause")+"?dryRun=All", "-f", "/dev/null"))
		all := true
		for _, part := range []string{words, "would be refused now", "a dry run asks neither the node"} {
			all = all && strings.Contains(warned, part)
		}
		return err == nil && all, said + warned
	})
	k.pause("demo")
	k.awaitPaused("demo")
	k.awaitEvent(corev1.EventTypeWarning, v1alpha1.EventResumeWouldBeRefused)
	k.resume("demo")
	k.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonPodRejected)
	allow()
	if _, err := k.sandboxes().Resume(t.Context(), "demo", &v1alpha1.SandboxResume{}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	k.awaitReady("demo")
}
