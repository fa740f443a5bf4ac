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

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// killing is how far the end of frozen containers has come.
type killing int

const (
	// killUnasked: nobody has begun it, and it can begin.
	killUnasked killing = iota
	// killUnderWay: it has begun.
	killUnderWay
	// killed: nothing that was frozen is there any more.
	killed
	// killFailed: the kubelet has to do it.
	killFailed
)

// removing ends the Pod of a pause past its point of no return: nothing thaws any more.
//
// The kubelet alone would do it, but badly: SIGTERM reaches nobody who is frozen, so it waits, and
// then the runtime kills the first process of each container and thaws the others, which for an
// instant write on, and may tell others of it, after all has been saved. So they are killed while
// they are frozen, in a container that was started beside the commit: by an exec, which the kubelet
// runs at once, while a Pod of its own would take most of a second to start. First comes the
// deletion, because of a Pod that stays the kubelet would start the containers again. Where that
// container is gone, or the kill fails or does not answer, the kubelet's way remains.
//
// Containers that the pause does not keep run again by then, but for those that could reach what is
// kept, and end by themselves, in the time that their template gives them.
func (o *observed) removing(next *nextStatus) action {
	if o.pod.DeletionTimestamp == nil {
		if first, sure := o.secured(next); !sure {
			return first
		}
	}
	frozen, others := o.containers()
	switch {
	case o.pod.DeletionTimestamp == nil:
		return o.remove(ptr.To(o.grace(frozen, others)))
	case !frozen && others:
		return action{do: wait}
	case !frozen:
		return o.remove(ptr.To[int64](removalGrace))
	case ptr.Deref(o.pod.DeletionGracePeriodSeconds, 0) <= removalGrace:
		return action{do: wait}
	case o.killing == killUnasked:
		return action{do: kill}
	case o.killing == killFailed:
		end := o.remove(ptr.To[int64](removalGrace))
		end.event = &note{warning: true, reason: v1alpha1.EventKillFailed,
			message: fmt.Sprintf("the frozen containers of Pod %s could not be killed before they are thawed, so the kubelet ends them: %s", o.pod.Name, o.killFault)}
		return end
	default:
		return action{do: wait}
	}
}

// grace is what the Pod gets to end, in seconds.
func (o *observed) grace(frozen, others bool) int64 {
	grace := int64(removalGrace)
	if frozen {
		grace = int64(commitjob.KillGrace.Seconds())
	}
	if others {
		grace = max(grace, ptr.Deref(o.pod.Spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds))
	}
	return grace
}

// containers says whether containers run that the attempt has frozen, and whether others do that it
// does not keep.
func (o *observed) containers() (frozen, others bool) {
	if !o.attemptIsOurs() || o.attempt.Status.SourcePodUID != o.pod.UID {
		return false, false
	}
	ids := map[string]string{}
	for i := range o.attempt.Status.Containers {
		ids[o.attempt.Status.Containers[i].ContainerName] = o.attempt.Status.Containers[i].ContainerID
	}
	for _, statuses := range [][]corev1.ContainerStatus{o.pod.Status.ContainerStatuses, o.pod.Status.InitContainerStatuses, o.pod.Status.EphemeralContainerStatuses} {
		for i := range statuses {
			if statuses[i].State.Running == nil {
				continue
			}
			kept, known := ids[statuses[i].Name]
			_, id, _ := strings.Cut(statuses[i].ContainerID, "://")
			frozen = frozen || known && id == kept
			others = others || !known
		}
	}
	return frozen, others
}

// killing finds out how far the kill is. Where this process has begun none, an earlier one may have:
// its container has ended then, or the next kill finds nothing to do.
func (r *Reconciler) killing(ctx context.Context, seen *observed) error {
	if kill, known := r.kills.of(client.ObjectKeyFromObject(seen.sandbox), seen.pod.UID); known {
		seen.killing, seen.killFault = kill.how, kill.fault
		return nil
	}
	standby, err := r.Jobs.Standby(ctx, seen.attempt)
	if err != nil {
		return err
	}
	switch standby.State {
	case commitjob.Active:
		seen.killing = killUnasked
	case commitjob.Succeeded:
		seen.killing = killed
	case commitjob.Failed:
		seen.killing, seen.killFault = killFailed, standby.Message
	}
	return nil
}

// kill begins to kill what is frozen in a Pod that is being deleted.
func (r *Reconciler) kill(ctx context.Context, seen *observed) error {
	return r.kills.begin(ctx, client.ObjectKeyFromObject(seen.sandbox), seen.pod.UID, func(ctx context.Context) commitjob.Outcome {
		return r.Jobs.Kill(ctx, seen.attempt)
	})
}
