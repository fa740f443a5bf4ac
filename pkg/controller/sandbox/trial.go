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
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/template"
)

// trialTimeout bounds the trial of a Pod: its webhooks have up to 30 s each, and nobody has to wait for them.
const trialTimeout = 5 * time.Second

// Trial creates the Pod that a resume would create, as a dry run: policies about images, for instance, may
// refuse that of a snapshot where they took the template's, and after the pause it would be late to hear of it.
type Trial struct {
	// Host creates Pods with the server's rights, as the resume does.
	Host       client.Client
	Images     *naming.ImageTemplate
	PullSecret string
}

// Refusal is why the API would refuse the Pod that comes back from a pause of this sandbox, as it was decided on; empty
// where it would take it, or where that cannot be found out. The sandbox has its template.
func (t *Trial) Refusal(ctx context.Context, pausing *v1alpha1.Sandbox) string {
	if pausing.Spec.Template == nil || !t.Images.Configured() {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	why := t.create(ctx, pausing, t.snapshot(pausing))
	if why == nil {
		return ""
	}
	message := fmt.Sprintf("the Pod that a resume is to create would be refused now: %v", why)
	if asItIs := t.create(ctx, pausing, nil); asItIs != nil {
		// Not for the snapshot's image, then.
		message += "; so would be the Pod of the template as it is, and perhaps for no more than this: a quota counts the Pod that still runs, and a webhook may take part in no dry run"
	}
	return message
}

// create is nil where the API would take the Pod. That its name is taken is found out last, when nothing
// else is left to refuse it.
func (t *Trial) create(ctx context.Context, pausing *v1alpha1.Sandbox, from *v1alpha1.SandboxSnapshot) error {
	pod, err := newPod(pausing, from, t.PullSecret)
	if err != nil {
		return err
	}
	err = t.Host.Create(ctx, pod, client.DryRunAll)
	if answer.OfCreate(err) == answer.Final {
		return err
	}
	return nil
}

// snapshot is what the attempt will be once it has succeeded, but for the digests.
func (t *Trial) snapshot(pausing *v1alpha1.Sandbox) *v1alpha1.SandboxSnapshot {
	snapshot := Attempt(pausing)
	snapshot.UID = "00000000-0000-4000-8000-000000000000"
	names := snapshot.Spec.Containers
	if len(names) == 0 {
		names = contents.Names(&pausing.Spec.Template.Spec)
	}
	for _, name := range names {
		snapshot.Status.Containers = append(snapshot.Status.Containers, v1alpha1.ContainerSnapshot{
			ContainerName: name,
			ImageDigest:   "sha256:" + strings.Repeat("0", 64),
			ImageURI: t.Images.Reference(naming.Image{
				Namespace: pausing.Namespace, Sandbox: pausing.Name, Container: name,
				Attempt: pausing.Status.SnapshotAttempts, SnapshotUID: snapshot.UID,
			}),
		})
	}
	return snapshot
}

// maxTrials is how many Pods are tried at a time. A pause beyond that is told nothing: its commit does not wait
// for anybody's webhook, and neither do the visits of other sandboxes.
const maxTrials = 16

// tryPod tells, while the commit of an attempt is under way, that its resume would be refused. It stops nothing: the
// files are worth saving whatever becomes of the Pod.
func (r *Reconciler) tryPod(ctx context.Context, pausing *v1alpha1.Sandbox) {
	if r.Trial == nil {
		return
	}
	if r.trials.Add(1) > maxTrials {
		r.trials.Add(-1)
		return
	}
	pausing = pausing.DeepCopy()
	go func() {
		defer r.trials.Add(-1)
		var err error
		if pausing.Spec.Template, err = template.Read(ctx, r.Live, pausing); err != nil {
			return // what a sandbox without a template lacks, its snapshot says
		}
		if why := r.Trial.Refusal(ctx, pausing); why != "" {
			r.tell(pausing, &note{warning: true, reason: v1alpha1.EventResumeWouldBeRefused, message: why})
		}
	}()
}
