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

// Package injection puts execd into a Pod template: an init container brings the program into a volume of the Pod, and the
// sandbox's container starts by it. Nothing of that is in the container's own files, so a snapshot holds none of it, and
// the next Pod brings it again. Showing a template is the way back: what the caller's entrypoint is.
package injection

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// What the clients of OpenSandbox, and the programs in its images, know by these names.
const (
	// Container is the container that the caller's image and entrypoint are of.
	Container = "sandbox"
	// Installer is the init container that brings execd.
	Installer = "execd-installer"
	// Volume is where it brings it to.
	Volume = "opensandbox-bin"
	// Directory is where the sandbox's container finds it.
	Directory = "/opt/opensandbox"

	// EnvExecd says where execd is.
	EnvExecd = "EXECD"
	// EnvID says what the sandbox's id is.
	EnvID = "OPENSANDBOX_ID"
	// EnvFile says which file OpenSandbox's execd keeps variables in. Its callers may set that themselves.
	EnvFile = "EXECD_ENVS"
)

const (
	execd     = Directory + "/execd"
	bootstrap = Directory + "/bootstrap.sh"
	// file is where the volume, which is read-only, would be in the way.
	file = "/tmp/.opensandbox.env"
)

// Flavor is whose execd an image holds.
type Flavor string

const (
	// Own is this project's: one static program that copies itself, and runs the entrypoint as its child.
	Own Flavor = "own"
	// OpenSandbox is OpenSandbox's: a program and a shell script that starts it beside the entrypoint. The sandbox's image
	// needs a shell.
	OpenSandbox Flavor = "opensandbox"
)

// Execd is the execd that is injected.
type Execd struct {
	// Image holds it.
	Image string
	// Flavor is whose it is.
	Flavor Flavor
	// PullPolicy is that of the init container; empty is Kubernetes' own default.
	PullPolicy corev1.PullPolicy
}

// FlavorOf tells whose execd an image holds by its name: OpenSandbox publishes its own as opensandbox/execd, and who mirrors
// that keeps the end of the name.
func FlavorOf(image string) (Flavor, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", image, err)
	}
	if repository := "/" + reference.Path(named); strings.HasSuffix(repository, "/opensandbox/execd") {
		return OpenSandbox, nil
	}
	return Own, nil
}

// Into has a container of a template start by execd, with this entrypoint, as the sandbox of this id. A template that has
// been injected into before has that taken out first, so that one from a snapshot gets the execd of today.
func (e Execd) Into(template *corev1.PodTemplateSpec, name string, entrypoint []string, id string) error {
	Remove(template)
	pod := &template.Spec
	at := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == name })
	if at < 0 {
		return fmt.Errorf("the template has no container %q", name)
	}
	for _, volume := range pod.Volumes {
		if volume.Name == Volume {
			return fmt.Errorf("the template has a volume %q of its own, which is the name of the one that execd comes in", Volume)
		}
	}
	container := &pod.Containers[at]
	for _, mount := range container.VolumeMounts {
		if Within(mount.MountPath, Directory) || Within(Directory, mount.MountPath) && path.Clean(mount.MountPath) != "/" {
			return fmt.Errorf("the template mounts volume %q at %s, and execd comes in at %s", mount.Name, mount.MountPath, Directory)
		}
	}

	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: Volume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	pod.InitContainers = append([]corev1.Container{e.installer(container)}, pod.InitContainers...)
	// Read-only: what the init container brings is the same in every Pod, so the volume is no place where files could be lost.
	container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: Volume, MountPath: Directory, ReadOnly: true})
	container.Command, container.Args = append(e.prefix(), escape(entrypoint)...), nil
	container.Env = append(container.Env, corev1.EnvVar{Name: EnvExecd, Value: execd}, corev1.EnvVar{Name: EnvID, Value: id})
	if e.Flavor == OpenSandbox && !slices.ContainsFunc(container.Env, func(v corev1.EnvVar) bool { return v.Name == EnvFile }) {
		container.Env = append(container.Env, corev1.EnvVar{Name: EnvFile, Value: file})
	}
	return nil
}

// prefix is what the entrypoint is started by.
func (e Execd) prefix() []string {
	if e.Flavor == OpenSandbox {
		return []string{bootstrap}
	}
	return []string{execd, "run", "--"}
}

// installer needs no more than the container that it serves, so the Pod as a whole needs no more either, and a quota that
// wants limits of every container has them. What it may do is what the Pod Security Standard "restricted" allows.
// https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers
func (e Execd) installer(of *corev1.Container) corev1.Container {
	installer := corev1.Container{
		Name:            Installer,
		Image:           e.Image,
		ImagePullPolicy: e.PullPolicy,
		VolumeMounts:    []corev1.VolumeMount{{Name: Volume, MountPath: Directory}},
		Resources:       corev1.ResourceRequirements{Limits: basic(of.Resources.Limits), Requests: basic(of.Resources.Requests)},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	if e.Flavor == OpenSandbox {
		// The modes are set: a build of it had a script that only its owner and group could read, and images that run as
		// somebody else did not start (https://github.com/opensandbox-group/OpenSandbox/issues/1619).
		installer.Command = []string{"/bin/sh", "-c"}
		installer.Args = []string{"cp ./execd ./bootstrap.sh " + Directory + "/ && chmod 0755 " + execd + " " + bootstrap}
		return installer
	}
	installer.Command = []string{"/execd", "install", Directory}
	installer.SecurityContext.RunAsNonRoot = ptr.To(true)
	installer.SecurityContext.RunAsUser = ptr.To[int64](65532)
	installer.SecurityContext.ReadOnlyRootFilesystem = ptr.To(true)
	return installer
}

// basic are the resources that every container needs.
func basic(all corev1.ResourceList) corev1.ResourceList {
	var some corev1.ResourceList
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if quantity, found := all[name]; found {
			if some == nil {
				some = corev1.ResourceList{}
			}
			some[name] = quantity.DeepCopy()
		}
	}
	return some
}

// Injected is whether execd is in a Pod.
func Injected(pod *corev1.PodSpec) bool {
	return slices.ContainsFunc(pod.InitContainers, func(c corev1.Container) bool { return c.Name == Installer })
}

// Entrypoint is what a container starts with, as whoever asked for it wrote it down.
func Entrypoint(container *corev1.Container) []string {
	own, injected := strip(container.Command)
	if !injected {
		return slices.Concat(container.Command, container.Args)
	}
	return slices.Concat(unescape(own), container.Args)
}

// strip takes execd off a command.
func strip(command []string) ([]string, bool) {
	for _, flavor := range []Flavor{Own, OpenSandbox} {
		prefix := Execd{Flavor: flavor}.prefix()
		if len(command) >= len(prefix) && slices.Equal(command[:len(prefix)], prefix) {
			return command[len(prefix):], true
		}
	}
	return command, false
}

// Remove takes out of a template what Into has put there.
func Remove(template *corev1.PodTemplateSpec) {
	pod := &template.Spec
	if !Injected(pod) {
		return
	}
	pod.InitContainers = slices.DeleteFunc(pod.InitContainers, func(c corev1.Container) bool { return c.Name == Installer })
	pod.Volumes = slices.DeleteFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == Volume })
	for i := range pod.Containers {
		container := &pod.Containers[i]
		container.VolumeMounts = slices.DeleteFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == Volume })
		own, injected := strip(container.Command)
		if !injected {
			continue
		}
		container.Command = own
		container.Env = slices.DeleteFunc(container.Env, func(v corev1.EnvVar) bool {
			return Reserved(v.Name) || v.Name == EnvFile && v.Value == file
		})
	}
}

// Reserved is whether a variable of the environment is one that Into alone sets.
func Reserved(name string) bool { return name == EnvExecd || name == EnvID }

// Within is whether a path of a container is another, or below it.
func Within(inner, outer string) bool {
	inner, outer = path.Clean(inner), path.Clean(outer)
	return inner == outer || outer == "/" || strings.HasPrefix(inner, outer+"/")
}
