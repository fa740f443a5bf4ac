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

// Package fuzzer fills objects of the lifecycle API with random content, for tests.
package fuzzer

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/randfill"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// Funcs fill in what a defaulted object always has: what is empty would come back with the
// default, and so not be equal to what was sent.
func Funcs(serializer.CodecFactory) []any {
	return []any{
		func(template *corev1.PodTemplateSpec, c randfill.Continue) {
			c.FillNoCustom(template)
			v1alpha1.SetObjectDefaults_Sandbox(&v1alpha1.Sandbox{Spec: v1alpha1.SandboxSpec{Template: template}})
		},
		func(spec *lifecycle.SandboxSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			if spec.EvictionPolicy == "" {
				spec.EvictionPolicy = lifecycle.EvictionPolicySave
			}
			if spec.ExpireTime != nil && spec.ExpireAction == "" {
				spec.ExpireAction = lifecycle.ExpireActionDelete
			}
		},
		func(policy *lifecycle.SnapshotPolicy, c randfill.Continue) {
			c.FillNoCustom(policy)
			if policy.HistoryLimit == nil {
				policy.HistoryLimit = ptr.To(v1alpha1.DefaultHistoryLimit)
			}
			if policy.DeletionPolicy == "" {
				policy.DeletionPolicy = lifecycle.DeletionPolicyDelete
			}
		},
		func(spec *lifecycle.SandboxSnapshotSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			switch {
			case spec.DeletionPolicy != "":
			case spec.Source != nil:
				spec.DeletionPolicy = lifecycle.DeletionPolicyRetain
			default:
				spec.DeletionPolicy = lifecycle.DeletionPolicyDelete
			}
		},
	}
}
