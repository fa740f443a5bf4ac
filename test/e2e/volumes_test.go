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

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// claim makes a PersistentVolumeClaim of the default StorageClass.
func (r *room) claim(name string) {
	r.t.Helper()
	_, err := r.kube.CoreV1().PersistentVolumeClaims(r.namespace).Create(r.t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatalf("create PersistentVolumeClaim %s: %v", name, err)
	}
}

// freeVolumes deletes the room's claims and offers their volumes again: the local cluster has a
// handful of them and no provisioner.
func (r *room) freeVolumes() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	claims, err := r.kube.CoreV1().PersistentVolumeClaims(r.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		r.t.Errorf("list the claims of namespace %s: %v", r.namespace, err)
		return
	}
	for _, claim := range claims.Items {
		if err := r.kube.CoreV1().PersistentVolumeClaims(r.namespace).Delete(ctx, claim.Name, metav1.DeleteOptions{}); err != nil {
			r.t.Errorf("delete claim %s: %v", claim.Name, err)
		}
		if claim.Spec.VolumeName == "" {
			continue
		}
		if err := r.offerAgain(ctx, claim.Spec.VolumeName); err != nil {
			r.t.Errorf("volume %s of claim %s: %v", claim.Spec.VolumeName, claim.Name, err)
		}
	}
}

func (r *room) offerAgain(ctx context.Context, volume string) error {
	for {
		found, err := r.kube.CoreV1().PersistentVolumes().Get(ctx, volume, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if found.Status.Phase == corev1.VolumeReleased {
			break
		}
		if err := pauseBriefly(ctx); err != nil {
			return fmt.Errorf("it is %s, not Released: %w", found.Status.Phase, err)
		}
	}
	_, err := r.kube.CoreV1().PersistentVolumes().Patch(ctx, volume, types.MergePatchType, []byte(`{"spec":{"claimRef":null}}`), metav1.PatchOptions{})
	return err
}
