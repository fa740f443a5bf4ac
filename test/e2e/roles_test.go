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
	"errors"
	"os/exec"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// bind gives a user a cluster role in the room, and returns when the API knows of it: each of them
// may at least get sandboxes.
func (r *room) bind(user, clusterRole string) {
	r.t.Helper()
	if _, err := r.kube.RbacV1().RoleBindings(r.namespace).Create(r.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: clusterRole},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	r.awaitRights(r.t, user, r.namespace, rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"sandboxes"}, Verbs: []string{"get"}})
}

// can is whether a user may do something to the sandbox or snapshot demo in the room.
func (r *room) can(user, verb, resource string) bool {
	r.t.Helper()
	resource, subresource, _ := strings.Cut(resource, "/")
	allowed, err := r.may(r.t.Context(), user, authorizationv1.ResourceAttributes{
		Namespace: r.namespace, Verb: verb, Group: v1alpha1.GroupName, Resource: resource, Subresource: subresource, Name: "demo",
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return allowed
}

func TestTheRolesThatAreInstalledAllowWhatTheyPromise(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	const (
		read    = "get list watch"
		write   = "create update patch delete deletecollection"
		objects = "sandboxes sandboxsnapshots"
		verbs   = "sandboxes/pause sandboxes/resume"
		status  = "sandboxes/status sandboxsnapshots/status"
	)
	type right struct{ verbs, resources string }
	everything := []right{{read + " " + write, objects + " " + status}, {read + " " + write, verbs}, {v1alpha1.VerbRollback, objects}}
	goBack := right{v1alpha1.VerbRollback, "sandboxes"}
	for role, allowed := range map[string][]right{
		"view":           {{read, objects}},
		"edit":           {{read + " " + write, objects}, {"create", verbs}, goBack},
		"admin":          {{read + " " + write, objects}, {"create", verbs}, goBack},
		"sandbox-viewer": {{read, objects}},
		"sandbox-editor": {{read + " " + write, objects}, {"create", verbs}, goBack},
		"sandbox-pauser": {{read, "sandboxes"}, {"create", verbs}},
		"nobody":         nil,
	} {
		user := "user-" + role
		if role != "nobody" {
			r.bind(user, role)
		}
		want := map[string]bool{}
		for _, rights := range allowed {
			for _, verb := range strings.Fields(rights.verbs) {
				for _, resource := range strings.Fields(rights.resources) {
					want[verb+" "+resource] = true
				}
			}
		}
		for _, rights := range everything {
			for _, verb := range strings.Fields(rights.verbs) {
				for _, resource := range strings.Fields(rights.resources) {
					if got := r.can(user, verb, resource); got != want[verb+" "+resource] {
						t.Errorf("%s: may %s %s: %t", role, verb, resource, got)
					}
				}
			}
		}
	}

	// The same, as a person would ask. Behind a slash kubectl expects the name of an object.
	for user, want := range map[string]string{"user-sandbox-pauser": "yes", "user-edit": "yes", "user-view": "no", "user-nobody": "no"} {
		if got := r.canI(user, "create", "sandboxes", "--subresource=pause"); got != want {
			t.Errorf("kubectl auth can-i create sandboxes --subresource=pause, as %s: %q, want %q", user, got, want)
		}
		if got := r.canI(user, v1alpha1.VerbRollback, "sbx/demo"); (got == "yes") != (user == "user-edit") {
			t.Errorf("kubectl auth can-i rollback sbx/demo, as %s: %q", user, got)
		}
	}

	// And as it is used.
	r.create("demo", fromNothing)
	pauser := r.as(t, "user-sandbox-pauser").LifecycleV1alpha1().Sandboxes(r.namespace)
	demo, err := pauser.Get(t.Context(), "demo", metav1.GetOptions{})
	if err != nil {
		t.Fatalf("get as the pauser: %v", err)
	}
	if _, err := pauser.Pause(t.Context(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{}); err != nil {
		t.Errorf("pause as the pauser: %v", err)
	}
	if _, err := pauser.Resume(t.Context(), "demo", &v1alpha1.SandboxResume{}, metav1.CreateOptions{}); err != nil {
		t.Errorf("resume as the pauser: %v", err)
	}
	for what, call := range map[string]func() error{
		"update": func() error {
			_, err := pauser.Update(t.Context(), demo, metav1.UpdateOptions{})
			return err
		},
		"update the status": func() error {
			_, err := pauser.UpdateStatus(t.Context(), demo, metav1.UpdateOptions{})
			return err
		},
		"resume from elsewhere": func() error {
			_, err := pauser.Resume(t.Context(), "demo", &v1alpha1.SandboxResume{FromTemplate: true}, metav1.CreateOptions{})
			return err
		},
		"delete": func() error { return pauser.Delete(t.Context(), "demo", metav1.DeleteOptions{}) },
		"create": func() error {
			_, err := pauser.Create(t.Context(), newSandbox("other"), metav1.CreateOptions{})
			return err
		},
	} {
		if err := call(); !apierrors.IsForbidden(err) {
			t.Errorf("%s as the pauser: %v, want 403 Forbidden", what, err)
		}
	}
}

// canI is the answer of kubectl auth can-i, which is its exit code as well.
func (r *room) canI(user string, question ...string) string {
	r.t.Helper()
	args := []string{"--kubeconfig", r.kubeconfig, "--namespace", r.namespace, "--as", user, "auth", "can-i"}
	command := exec.CommandContext(r.t.Context(), r.kubectl, append(args, question...)...)
	output, err := command.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		r.t.Fatalf("%s: %v", command, err)
	}
	answer, _, _ := strings.Cut(strings.TrimSpace(string(output)), "\n")
	if (answer == "yes") != (err == nil) {
		r.t.Errorf("kubectl says %q and ends with %v", answer, err)
	}
	return answer
}
