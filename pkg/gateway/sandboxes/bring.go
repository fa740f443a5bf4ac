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

package sandboxes

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	typed "github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned/typed/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

func (c *creating) sandboxes() typed.SandboxInterface {
	return c.caller.Lifecycle.LifecycleV1alpha1().Sandboxes(c.identity.namespace)
}

func (c *creating) get(ctx context.Context) (*v1alpha1.Sandbox, error) {
	return c.sandboxes().Get(ctx, c.identity.id, metav1.GetOptions{})
}

// lookForClaims refuses a sandbox that would wait for a claim which nobody makes.
func (c *creating) lookForClaims(ctx context.Context) error {
	for i := range c.wanted.Volumes {
		claim := c.wanted.Volumes[i].Claim
		if claim == nil || claim.Create {
			continue
		}
		_, err := c.caller.Kube.CoreV1().PersistentVolumeClaims(c.identity.namespace).Get(ctx, claim.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return badRequest(codeVolumeNoClaim, "volumes[%d].pvc.claimName: there is no claim %q, and createIfNotExists is false", i, claim.Name)
		case err != nil && !apierrors.IsForbidden(err): // who may not look at claims may still use them
			return err
		}
	}
	return nil
}

// bringDependents makes what a sandbox needs besides. What is there already stays as it is.
func (c *creating) bringDependents(ctx context.Context, sandbox *v1alpha1.Sandbox) error {
	wanted, err := c.wanted.dependents(sandbox)
	if err != nil {
		return err
	}
	core := c.caller.Kube.CoreV1()
	if wanted.secret != nil {
		_, err := core.Secrets(sandbox.Namespace).Create(ctx, wanted.secret, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("image.auth is kept in a Secret beside the sandbox: %w", err)
		}
	}
	for _, claim := range wanted.claims {
		if !claim.create {
			continue
		}
		claims := core.PersistentVolumeClaims(sandbox.Namespace)
		_, err := claims.Create(ctx, claim.object, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) {
			continue
		}
		if apierrors.IsForbidden(err) { // where it is there nothing had to be created
			if _, lookErr := claims.Get(ctx, claim.object.Name, metav1.GetOptions{}); lookErr == nil {
				continue
			}
		}
		return fmt.Errorf("volumes[%d].pvc: %w", claim.at, err)
	}
	return nil
}

func checkSnapshotID(id string) error {
	if faults := validation.IsDNS1123Subdomain(id); len(faults) > 0 {
		return answer.Errorf(404, answer.CodeSnapshotNotFound, "snapshotId: there is no snapshot %s", describe(id))
	}
	return nil
}

func failureOf(snapshot *v1alpha1.SandboxSnapshot) string {
	if failed := apimeta.FindStatusCondition(snapshot.Status.Conditions, v1alpha1.ConditionFailed); failed != nil {
		return failed.Reason + ": " + failed.Message
	}
	return "no reason is known"
}
