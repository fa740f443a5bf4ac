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
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/injection"
)

// volume is one that the caller mounts. Exactly one of the last three says what it is.
type volume struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	ReadOnly  bool   `json:"readOnly,omitempty"`
	SubPath   string `json:"subPath,omitempty"`
	HostPath  string `json:"hostPath,omitempty"`
	Claim     *claim `json:"pvc,omitempty"`
	OSSFS     bool   `json:"ossfs,omitempty"`
}

type claim struct {
	Name                string   `json:"claimName"`
	Create              bool     `json:"create"`
	DeleteOnTermination bool     `json:"delete,omitempty"`
	StorageClass        *string  `json:"storageClass,omitempty"`
	Storage             string   `json:"storage,omitempty"`
	AccessModes         []string `json:"accessModes,omitempty"`
}

// defaultStorage is what a claim asks for that says nothing.
const defaultStorage = "1Gi"

var accessModes = []string{
	string(corev1.ReadWriteOnce), string(corev1.ReadOnlyMany), string(corev1.ReadWriteMany), string(corev1.ReadWriteOncePod),
}

func (c *creation) checkVolumes(settings *Settings) error {
	names, paths := map[string]bool{}, map[string]bool{}
	for i := range c.Volumes {
		if err := c.Volumes[i].check(i, settings); err != nil {
			return err
		}
		volume := &c.Volumes[i]
		if names[volume.Name] {
			return badRequest(codeVolumeDuplicate, "volumes[%d].name: there is another volume %q; name each once", i, volume.Name)
		}
		at := path.Clean(volume.MountPath)
		if paths[at] {
			return badRequest(codeVolumeMountPath, "volumes[%d].mountPath: another volume is mounted at %s", i, at)
		}
		names[volume.Name], paths[at] = true, true
	}
	return nil
}

func (v *volume) check(i int, settings *Settings) error {
	if faults := validation.IsDNS1123Label(v.Name); len(faults) > 0 {
		return badRequest(codeVolumeName, "volumes[%d].name: %s is none: %s", i, describe(v.Name), faults[0])
	}
	if v.Name == injection.Volume {
		return badRequest(codeVolumeName, "volumes[%d].name: %q is the name of the volume that execd comes in; use another", i, v.Name)
	}
	switch at := path.Clean(v.MountPath); {
	case !path.IsAbs(v.MountPath) || strings.ContainsAny(v.MountPath, ":\x00"):
		return badRequest(codeVolumeMountPath, "volumes[%d].mountPath: %s must be an absolute path, without colons", i, describe(v.MountPath))
	case slices.Contains(strings.Split(v.MountPath, "/"), ".."):
		return badRequest(codeVolumeMountPath, "volumes[%d].mountPath: %s must not have .. in it", i, describe(v.MountPath))
	case at == "/":
		return badRequest(codeVolumeMountPath, "volumes[%d].mountPath: the root of the sandbox is its image's; mount the volume below it", i)
	case injection.Within(at, injection.Directory), injection.Within(injection.Directory, at):
		return badRequest(codeVolumeMountPath, "volumes[%d].mountPath: %s is in the way of execd, which comes in at %s", i, at, injection.Directory)
	}
	if path.IsAbs(v.SubPath) || slices.Contains(strings.Split(v.SubPath, "/"), "..") || strings.ContainsRune(v.SubPath, 0) {
		return badRequest(codeVolumeSubPath, "volumes[%d].subPath: %s must be a relative path without .. in it", i, describe(v.SubPath))
	}
	switch {
	case v.HostPath != "" && v.Claim != nil, v.HostPath == "" && v.Claim == nil:
		return badRequest(codeVolumeBackend, "volumes[%d]: say exactly one of host and pvc", i)
	case v.HostPath != "":
		return v.checkHostPath(i, settings.AllowedHostPaths)
	}
	return v.Claim.check(i)
}

// checkHostPath lets pass what is at or below one of the paths that the operator has named: whoever reaches the rest of a node
// owns it.
func (v *volume) checkHostPath(i int, allowed []string) error {
	if !path.IsAbs(v.HostPath) || slices.Contains(strings.Split(v.HostPath, "/"), "..") || strings.ContainsRune(v.HostPath, 0) {
		return badRequest(codeVolumeHostPath, "volumes[%d].host.path: %s must be an absolute path without .. in it", i, describe(v.HostPath))
	}
	if !slices.ContainsFunc(allowed, func(outer string) bool { return injection.Within(v.HostPath, outer) }) {
		return badRequest(codeVolumeNotAllowed, "volumes[%d].host.path: %s is not below a path that --allowed-host-paths names; use a pvc, or ask whoever runs this server", i, describe(v.HostPath))
	}
	return nil
}

func (c *claim) check(i int) error {
	if faults := validation.IsDNS1123Subdomain(c.Name); len(faults) > 0 {
		return badRequest(codeVolumeClaim, "volumes[%d].pvc.claimName: %s is none: %s", i, describe(c.Name), faults[0])
	}
	for _, mode := range c.AccessModes {
		if !slices.Contains(accessModes, mode) {
			return invalid("volumes[%d].pvc.accessModes: %s is none of %s", i, describe(mode), strings.Join(accessModes, ", "))
		}
	}
	if c.StorageClass != nil && *c.StorageClass != "" {
		if faults := validation.IsDNS1123Subdomain(*c.StorageClass); len(faults) > 0 {
			return invalid("volumes[%d].pvc.storageClass: %s is none: %s", i, describe(*c.StorageClass), faults[0])
		}
	}
	if c.Storage != "" {
		if size, err := resource.ParseQuantity(c.Storage); err != nil || size.Sign() <= 0 {
			return invalid("volumes[%d].pvc.storage: %s is no size as Kubernetes writes it, such as 10Gi", i, describe(c.Storage))
		}
	}
	return nil
}

func (v *volume) source() corev1.VolumeSource {
	if v.HostPath != "" {
		return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path.Clean(v.HostPath)}}
	}
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: v.Claim.Name}}
}

func (v *volume) mount() corev1.VolumeMount {
	return corev1.VolumeMount{Name: v.Name, MountPath: v.MountPath, SubPath: v.SubPath, ReadOnly: v.ReadOnly}
}

// object is the claim as it is to be created where there is none. The sandbox owns it where it is to end with it.
func (c *claim) object(namespace string, owner metav1.OwnerReference) *corev1.PersistentVolumeClaim {
	size := c.Storage
	if size == "" {
		size = defaultStorage
	}
	object := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: c.Name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: c.StorageClass,
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
	}
	for _, mode := range c.AccessModes {
		object.Spec.AccessModes = append(object.Spec.AccessModes, corev1.PersistentVolumeAccessMode(mode))
	}
	if len(object.Spec.AccessModes) == 0 {
		object.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	if c.DeleteOnTermination {
		object.OwnerReferences = []metav1.OwnerReference{owner}
	}
	return object
}
