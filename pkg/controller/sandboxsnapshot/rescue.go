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

package sandboxsnapshot

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
)

// RescueOf is what a snapshot saves that holds what ended containers left and nothing else, nil where it is another. The
// attempt of a pause may have such containers too.
func RescueOf(snapshot *v1alpha1.SandboxSnapshot) *v1alpha1.SnapshotRescue {
	if snapshot.Spec.Pause != nil {
		return nil
	}
	return snapshot.Spec.Rescue
}

// lostRescue says whether a snapshot was made to save what ended containers left, and does not say so any more: a server from
// before there were such drops the field from what it writes. The name nobody else may give.
func lostRescue(snapshot *v1alpha1.SandboxSnapshot) bool {
	number := naming.Rescue(snapshot.Name)
	return snapshot.Spec.Rescue == nil && snapshot.Spec.Source == nil && number > 0 && snapshot.Name == naming.RescueSnapshot(snapshot.Spec.SandboxName, number)
}

func (o *observed) rescue() *v1alpha1.SnapshotRescue { return RescueOf(o.snapshot) }

// notRescued says why a rescue is not wanted any more, empty where it is.
func notRescued(rescue *v1alpha1.SnapshotRescue, sandbox *v1alpha1.Sandbox) string {
	switch {
	case sandbox.UID != rescue.SandboxUID:
		return fmt.Sprintf("sandbox %s was deleted and created anew", sandbox.Name)
	case sandbox.DeletionTimestamp != nil:
		return fmt.Sprintf("sandbox %s is being deleted", sandbox.Name)
	}
	return ""
}

// slotOf is the slot that a commit needs. One that saves what ended containers left does not touch what runs in the Pod, nor
// what another has frozen there: it does not wait for that. Of these, too, there is one at a time for a Pod.
func slotOf(pod types.UID, node string, rescue bool) slot {
	if rescue && pod != "" {
		pod += "/ended"
	}
	return slot{pod: pod, node: node}
}

// endedContainers are those of the containers that are committed as they have ended.
func endedContainers(snapshot *v1alpha1.SandboxSnapshot, containers []v1alpha1.ContainerSnapshot) []string {
	var ended []string
	for i := range containers {
		if id := endedID(snapshot, containers[i].ContainerName); id != "" && id == containers[i].ContainerID {
			ended = append(ended, containers[i].ContainerName)
		}
	}
	return ended
}

// endedID is the ID that a container of the snapshot had when it ended; empty where it is committed as it is.
func endedID(snapshot *v1alpha1.SandboxSnapshot, container string) string {
	if snapshot.Spec.Rescue == nil {
		return ""
	}
	all := snapshot.Spec.Rescue.Containers
	if at := slices.IndexFunc(all, func(c v1alpha1.RescuedContainer) bool { return c.ContainerName == container }); at >= 0 {
		return all[at].ContainerID
	}
	return ""
}

// idOf is the runtime's ID of the container that is to be committed.
func idOf(snapshot *v1alpha1.SandboxSnapshot, pod *corev1.Pod, name string) (string, error) {
	id, err := containerID(pod, name)
	if ended := endedID(snapshot, name); ended != "" && (err == nil || !isRuntime(err)) {
		return ended, nil
	}
	return id, err
}

func isRuntime(err error) bool {
	why := (*refusal)(nil)
	return errors.As(err, &why) && why.reason == v1alpha1.ReasonRuntimeNotSupported
}
