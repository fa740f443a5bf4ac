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

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// grant gives a user rights in the room, and returns when the API knows of them.
func (r *room) grant(user string, rules ...rbacv1.PolicyRule) {
	r.t.Helper()
	r.grantTo(rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}, user, user, rules...)
}

// grantTo is grant for any subject: user is what the API calls it, role the name of the Role and
// its binding.
func (r *room) grantTo(subject rbacv1.Subject, user, role string, rules ...rbacv1.PolicyRule) {
	r.t.Helper()
	meta := metav1.ObjectMeta{Name: role}
	if _, err := r.kube.RbacV1().Roles(r.namespace).Create(r.t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.kube.RbacV1().RoleBindings(r.namespace).Create(r.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		Subjects:   []rbacv1.Subject{subject},
	}, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	r.awaitRights(r.t, user, r.namespace, rules...)
}

// awaitRights waits until the API knows of a user's rights: it learns of roles and bindings by
// watching them, a moment after they have been written.
func (c *cluster) awaitRights(t *testing.T, user, namespace string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	for _, rule := range rules {
		resource, subresource, _ := strings.Cut(rule.Resources[0], "/")
		asked := authorizationv1.ResourceAttributes{
			Namespace: namespace, Verb: rule.Verbs[0], Group: rule.APIGroups[0], Resource: resource, Subresource: subresource,
		}
		if len(rule.ResourceNames) > 0 {
			asked.Name = rule.ResourceNames[0]
		}
		eventually(t, fmt.Sprintf("%s may %s %s", user, asked.Verb, rule.Resources[0]), patience, func(ctx context.Context) (bool, string) {
			allowed, err := c.may(ctx, user, asked)
			return allowed, fmt.Sprintf("allowed: %t, %v", allowed, err)
		})
	}
}

// may asks the API whether a user may do something.
func (c *cluster) may(ctx context.Context, user string, asked authorizationv1.ResourceAttributes) (bool, error) {
	review, err := c.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: user, Groups: []string{"system:authenticated"}, ResourceAttributes: &asked},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

func TestARightToPauseIsNoRightToUpdate(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.grant("pauser", rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"sandboxes/pause"}, Verbs: []string{"create"}})
	r.grant("editor", rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"sandboxes"}, Verbs: []string{"get", "update"}})

	pauser := r.as(t, "pauser").LifecycleV1alpha1().Sandboxes(r.namespace)
	editor := r.as(t, "editor").LifecycleV1alpha1().Sandboxes(r.namespace)

	for what, call := range map[string]func() error{
		"pause without the right to": func() error {
			_, err := editor.Pause(t.Context(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
			return err
		},
		"update with the right to pause": func() error {
			_, err := pauser.Update(t.Context(), r.get("demo"), metav1.UpdateOptions{})
			return err
		},
		"get with the right to pause": func() error {
			_, err := pauser.Get(t.Context(), "demo", metav1.GetOptions{})
			return err
		},
		"resume with the right to pause": func() error {
			_, err := pauser.Resume(t.Context(), "demo", &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
			return err
		},
		"status with the right to update": func() error {
			_, err := editor.UpdateStatus(t.Context(), r.get("demo"), metav1.UpdateOptions{})
			return err
		},
	} {
		if err := call(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want 403 Forbidden", what, err)
		}
	}
	if now := r.get("demo"); now.Status.Phase != v1alpha1.SandboxRunning {
		t.Errorf("after what was forbidden the sandbox is %s", describe(now))
	}

	answer, err := pauser.Pause(t.Context(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("pause with the right to pause: %v", err)
	}
	if answer.Status.Phase != v1alpha1.SandboxPausing {
		t.Errorf("the pause answers with %s", describe(answer))
	}
	r.awaitPaused("demo")
}
