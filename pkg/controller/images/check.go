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

package images

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/registry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// resumePatience is how long a resume waits for the registry's answer. It goes on without one: the
// image may well be there, and the kubelet goes on asking.
const resumePatience = 2 * time.Second

// Looker sees what the registry has of an image.
type Looker interface {
	Look(ctx context.Context, image, digest string) (registry.Found, error)
}

// Checker sees whether the images of snapshots are in the registry, and says so in their condition
// ImageAvailable: True, or False where the registry says that it has no such manifest. That the
// registry cannot be asked is Unknown; so is that it does not give a layer out, for nodes may have that.
type Checker struct {
	// Client writes SandboxSnapshots; Live reads them past its cache.
	Client   client.Client
	Live     client.Reader
	Registry Looker
	// Pace is how fast the registry may be asked.
	Pace     *Pace
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
}

// CheckForResume checks the snapshot that a Pod is about to come from. It fails no resume: where it
// finds nothing out, what the condition says already counts.
func (c *Checker) CheckForResume(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) {
	if snapshot.Spec.Source != nil || !c.Pace.hasRoom() {
		return // the one is not this server's to ask for
	}
	asking, cancel := context.WithTimeout(ctx, resumePatience)
	defer cancel()
	if err := c.record(ctx, snapshot, c.look(asking, snapshot)); err != nil {
		log.FromContext(ctx).Info("That the images of a snapshot were looked for could not be recorded", "snapshot", client.ObjectKeyFromObject(snapshot), "why", err.Error())
	}
}

// Check checks a snapshot and returns what it found.
func (c *Checker) Check(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) (metav1.ConditionStatus, error) {
	found := c.look(ctx, snapshot)
	return found.Status, c.record(ctx, snapshot, found)
}

// look asks for the images one by one, until one is missing.
func (c *Checker) look(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot) metav1.Condition {
	found := metav1.Condition{
		Type: v1alpha1.ConditionImageAvailable, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonImageAvailable,
		Message: "every image of the snapshot is in the registry", ObservedGeneration: snapshot.Generation,
	}
	for i := range snapshot.Status.Containers {
		saved := &snapshot.Status.Containers[i]
		switch has, err := c.Registry.Look(ctx, saved.ImageURI, saved.ImageDigest); {
		case err != nil && found.Reason == v1alpha1.ReasonImageIncomplete: // which is more than not known
		case err != nil:
			// That of another container may be missing for certain.
			found.Status, found.Reason = metav1.ConditionUnknown, reasonOf(err)
			found.Message = fmt.Sprintf("it is not known whether the image of container %s is in the registry: %v", saved.ContainerName, err)
		case has.Manifest && has.Lost != "":
			found.Status, found.Reason = metav1.ConditionUnknown, v1alpha1.ReasonImageIncomplete
			found.Message = fmt.Sprintf("the registry has lost %s of the image %s@%s (container %s): a node that does not have it already cannot start from this snapshot. "+
				"The next pause pushes it again; see docs/troubleshooting.md for a registry that deletes what it goes on to tell of", has.Lost, saved.ImageURI, saved.ImageDigest, saved.ContainerName)
		case !has.Manifest:
			found.Status, found.Reason = metav1.ConditionFalse, v1alpha1.ReasonImageUnavailable
			found.Message = fmt.Sprintf("the registry has no image %s@%s (container %s): a resume from this snapshot waits until it is there again; "+
				"bring it back, or resume from another snapshot (snapshotName) or from the template (fromTemplate)", saved.ImageURI, saved.ImageDigest, saved.ContainerName)
			return found
		}
	}
	return found
}

// reasonOf is why the registry could not be asked.
func reasonOf(err error) string {
	switch reason := result.From(err).Reason; {
	case errors.Is(err, errElsewhere):
		return v1alpha1.ReasonImageNotChecked
	case errors.Is(err, errBusy):
		return v1alpha1.ReasonImageCheckFailed
	case reason == result.RegistryUnavailable, reason == result.RegistryDenied, reason == result.PushSecretInvalid:
		return string(reason)
	}
	return v1alpha1.ReasonImageCheckFailed
}

// record writes what was found, where it is news, into the snapshot as it is by now.
func (c *Checker) record(ctx context.Context, snapshot *v1alpha1.SandboxSnapshot, found metav1.Condition) error {
	found.Message = answer.Condition(found.Message) // the registry's words may be many
	var before *metav1.Condition
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		before = meta.FindStatusCondition(snapshot.Status.Conditions, found.Type).DeepCopy()
		if !news(before, found) {
			return nil
		}
		now := snapshot.DeepCopy()
		if before == nil || before.Status != found.Status {
			found.LastTransitionTime = metav1.NewTime(c.Clock.Now())
		}
		meta.SetStatusCondition(&now.Status.Conditions, found)
		err := c.Client.Status().Update(ctx, now)
		if err != nil {
			uid := snapshot.UID
			if readErr := c.Live.Get(ctx, client.ObjectKeyFromObject(snapshot), snapshot); readErr != nil || snapshot.UID != uid {
				return client.IgnoreNotFound(readErr) // what is gone needs no condition
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write the status of snapshot %s/%s: %w", snapshot.Namespace, snapshot.Name, err)
	}
	c.tell(snapshot, before, found)
	return nil
}

// news says whether a finding is worth a write. The words of an error differ from try to try, and which of several lost
// layers is seen first.
func news(before *metav1.Condition, found metav1.Condition) bool {
	if before == nil || before.Status != found.Status || before.Reason != found.Reason {
		return true
	}
	return found.Status != metav1.ConditionUnknown && before.Message != found.Message
}

func (c *Checker) tell(snapshot *v1alpha1.SandboxSnapshot, before *metav1.Condition, found metav1.Condition) {
	missed := before != nil && isMissed(before)
	switch {
	case isMissed(&found) && (!missed || before.Reason != found.Reason):
		c.Recorder.Eventf(snapshot, nil, corev1.EventTypeWarning, found.Reason, "Check", "%s", found.Message)
	case found.Status == metav1.ConditionTrue && missed:
		c.Recorder.Eventf(snapshot, nil, corev1.EventTypeNormal, found.Reason, "Check", "%s again", found.Message)
	}
}

// isMissed is whether something of an image is known not to be there.
func isMissed(condition *metav1.Condition) bool {
	return condition.Status == metav1.ConditionFalse || condition.Reason == v1alpha1.ReasonImageIncomplete
}
