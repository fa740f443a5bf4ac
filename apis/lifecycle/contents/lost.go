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

package contents

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// Lost is a kind of thing that a snapshot does not hold, as docs/files.md tells of it.
type Lost struct {
	// What it is, why it is not kept, and what people see instead of it, in Markdown.
	What, Why, Seen string

	// volume is whether a volume is of that kind, and kind what it is called then.
	volume func(*corev1.VolumeSource) bool
	kind   string
}

// NotKept is all that a snapshot does not hold. What is not in this list is kept, lies outside of
// the Pod, or is a fault.
var NotKept = []Lost{
	{
		What: "memory, processes, open files, locks",
		Why:  "files only",
		Seen: "the containers start anew",
	}, {
		What: "Unix sockets",
		Why:  "a socket without its process is of no use, and a layer cannot hold one",
		Seen: "gone; so is what the image had under that name (`TestRandomTrees`)",
	}, {
		What:   "`emptyDir` volumes, but those that all containers mount read-only: init containers fill them at every start",
		Why:    "they go with the Pod",
		Seen:   "an empty place; creating and pausing warns, and the snapshot says `MountNotKept` (`TestAnImageHoldsNothingOfTheNode`, `TestLostVolumes`)",
		kind:   "emptyDir",
		volume: func(v *corev1.VolumeSource) bool { return v.EmptyDir != nil },
	}, {
		What:   "generic ephemeral volumes",
		Why:    "their claim goes with the Pod",
		Seen:   "the same; a PersistentVolumeClaim of your own stays",
		kind:   "ephemeral",
		volume: func(v *corev1.VolumeSource) bool { return v.Ephemeral != nil },
	}, {
		What: "inline CSI volumes that may be written to",
		Why:  "their driver removes them with the Pod",
		Seen: "the same",
		kind: "inline CSI",
		volume: func(v *corev1.VolumeSource) bool {
			return v.CSI != nil && (v.CSI.ReadOnly == nil || !*v.CSI.ReadOnly)
		},
	}, {
		What: "`/dev/shm`",
		Why:  "memory, which goes with the Pod",
		Seen: "an empty place",
	}, {
		What: "what a container mounts itself: memory, FUSE, a disk in a file, an overlay of its own",
		Why:  "it is another file system, and its processes are gone; where it keeps its data in the container's own files those are kept, as they were on the disk at that moment",
		Seen: "what was below it; `status.warnings` names the path and the kind (`MountNotKept`, `TestWhatAContainerHasMountedItself`, `TestMountsOfItsOwn`)",
	}, {
		What: "files of debug containers (`kubectl debug`)",
		Why:  "no new Pod can have such a container",
		Seen: "gone with the container; a dry run warns, and the snapshot says `ContainerNotKept` (`TestWhatAPodLoses`). What was written from there into the files of others is kept",
	}, {
		What: "files of containers that `spec.snapshot.containers` leaves out, or that a webhook has put into the Pod",
		Why:  "nobody asked for them",
		Seen: "those of their image; the same (`TestWhatAPodLoses`)",
	}, {
		What: "files of init containers that run to their end",
		Why:  "they run once more in the next Pod",
		Seen: "made anew",
	}, {
		What: "what was changed in the Pod and not in the template: images that were patched, labels, annotations, resources of the Pod as a whole and of containers that are not kept",
		Why:  "the next Pod is made from the template",
		Seen: "what the template says; for resources a dry run warns, and the snapshot says `ResourcesChanged` (`TestWhatAPodLoses`). A sandbox that is paused can have its template edited. Containers that are kept come back [as they were resized](usage.md#more-memory-while-it-runs) (`TestAResizeSurvivesAPause`)",
	}, {
		What: "times of access and of inode changes, creation times",
		Why:  "no image carries them",
		Seen: "those of the unpacking",
	}, {
		What: "inode flags (`chattr +i`), project quotas",
		Why:  "no image carries them",
		Seen: "gone",
	}, {
		What: "SELinux labels",
		Why:  "they belong to one Pod",
		Seen: "those of the new Pod",
	},
}

// Table is the list as docs/files.md has it.
func Table() string {
	var b strings.Builder
	b.WriteString("| what | why | what you see |\n| --- | --- | --- |\n")
	for _, lost := range NotKept {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", lost.What, lost.Why, lost.Seen)
	}
	return b.String()
}

// lostVolume names the kind of a volume whose content is bound to the life of one Pod and was
// written there; empty for all others. What the kubelet fills in (configMap, secret, projected)
// comes back by itself, so does what init containers have put there for others to read, and the rest lies outside of the Pod.
func lostVolume(pod *corev1.PodSpec, volume *corev1.Volume) string {
	if onlyRead(pod, volume.Name) {
		return ""
	}
	for _, lost := range NotKept {
		if lost.volume != nil && lost.volume(&volume.VolumeSource) {
			return lost.kind
		}
	}
	return ""
}

// onlyRead says whether all containers that mount a volume, and run for as long as the Pod does, do so to read: then it holds
// what the Pod's init containers write at every start. Of one that none of them mounts nothing is known.
func onlyRead(pod *corev1.PodSpec, volume string) bool {
	read := false
	for _, container := range Containers(pod) {
		for _, mount := range container.VolumeMounts {
			if mount.Name != volume {
				continue
			}
			if !mount.ReadOnly {
				return false
			}
			read = true
		}
	}
	return read
}

// LostVolumes has a sentence for each volume of a template whose content a pause does not keep; path
// is that of the template's Pod spec.
func LostVolumes(pod *corev1.PodSpec, path *field.Path) []string {
	var warnings []string
	for i := range pod.Volumes {
		volume := &pod.Volumes[i]
		if kind := lostVolume(pod, volume); kind != "" {
			warnings = append(warnings, fmt.Sprintf("%s: the content of the %s volume %q does not survive a pause",
				path.Child("volumes").Index(i), kind, volume.Name))
		}
	}
	return warnings
}

// LostOnExit tells of what a Pod's template has done with containers that end, and that cannot be saved then: the
// kubelet kills all containers and removes them in one go.
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/kuberuntime/kuberuntime_manager.go (ContainersToReset)
func LostOnExit(pod *corev1.PodSpec, path *field.Path) []string {
	var warnings []string
	for list, containers := range map[string][]corev1.Container{"containers": pod.Containers, "initContainers": pod.InitContainers} {
		for i := range containers {
			for rule := range containers[i].RestartPolicyRules {
				if containers[i].RestartPolicyRules[rule].Action == corev1.ContainerRestartRuleActionRestartAllContainers {
					warnings = append(warnings, fmt.Sprintf("%s: RestartAllContainers removes all containers with their files at once: nothing of them can be rescued (spec.onExit), and what was written since the last pause is gone",
						path.Child(list).Index(i).Child("restartPolicyRules").Index(rule)))
				}
			}
		}
	}
	slices.Sort(warnings)
	return warnings
}

// OfTemplate is what a snapshot of those containers does not hold, by the sandbox's template.
func OfTemplate(template *corev1.PodSpec, committed []string) []v1alpha1.SnapshotWarning {
	var warnings []v1alpha1.SnapshotWarning
	for i := range template.Volumes {
		volume := &template.Volumes[i]
		kind := lostVolume(template, volume)
		if kind == "" {
			continue
		}
		warning := v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonMountNotKept,
			Message: fmt.Sprintf("the content of the %s volume %q is not in the snapshot", kind, volume.Name)}
		warning.ContainerName, warning.Path = mountedAt(template, volume.Name, committed)
		warnings = append(warnings, warning)
	}
	return warnings
}

// mountedAt is the first of some containers that mounts a volume, and where.
func mountedAt(pod *corev1.PodSpec, volume string, containers []string) (container, path string) {
	for _, c := range Containers(pod) {
		for _, mount := range c.VolumeMounts {
			if mount.Name == volume && slices.Contains(containers, c.Name) {
				return c.Name, mount.MountPath
			}
		}
	}
	return "", ""
}

// OfPod is what more it does not hold, by the Pod as it is.
func OfPod(pod *corev1.Pod, template *corev1.PodSpec, committed []string) []v1alpha1.SnapshotWarning {
	var warnings []v1alpha1.SnapshotWarning
	lose := func(name, format string) {
		if !slices.Contains(committed, name) {
			warnings = append(warnings, v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonContainerNotKept, ContainerName: name, Message: fmt.Sprintf(format, name)})
		}
	}
	own := Names(template)
	for _, status := range Statuses(pod) {
		if slices.Contains(own, status.Name) {
			lose(status.Name, "the files of container %q are not in the snapshot: it is not among those that are to be kept")
		} else {
			lose(status.Name, "the files of container %q are not in the snapshot: it was put into the Pod, and is not in the sandbox's template")
		}
	}
	for i := range pod.Status.EphemeralContainerStatuses {
		if status := &pod.Status.EphemeralContainerStatuses[i]; status.ContainerID != "" {
			lose(status.Name, "the files of debug container %q are not in the snapshot")
		}
	}
	for _, container := range Containers(template) {
		// What is committed brings its resources along.
		if had := Resized(container, pod); had != nil && !slices.Contains(committed, container.Name) {
			warnings = append(warnings, v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonResourcesChanged, ContainerName: container.Name,
				Message: fmt.Sprintf("container %q was resized in its Pod and is not in the snapshot, so the next one has the template's resources: %s", container.Name, changes(&container.Resources, had))})
		}
	}
	if had := resizedPod(pod, template); len(had.Limits)+len(had.Requests) > 0 {
		warnings = append(warnings, v1alpha1.SnapshotWarning{Reason: v1alpha1.ReasonResourcesChanged,
			Message: fmt.Sprintf("the Pod was resized as a whole, and the next one has the template's resources: %s", changes(template.Resources, had))})
	}
	return warnings
}
