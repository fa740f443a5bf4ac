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

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

// DefaultHistoryLimit is how many successful pause snapshots a sandbox keeps unless it says otherwise.
const DefaultHistoryLimit int32 = 3

func addDefaultingFuncs(scheme *runtime.Scheme) error {
	return RegisterDefaults(scheme)
}

// SetDefaults_SnapshotPolicy fills in how a sandbox keeps its snapshots.
//
// spec.desiredState has no default here on purpose: a default is filled in before the server
// compares an update with what is stored, so a client that leaves the field out of an update
// would resume a paused sandbox. The create strategy sets it instead.
func SetDefaults_SnapshotPolicy(obj *SnapshotPolicy) {
	if obj.HistoryLimit == nil {
		obj.HistoryLimit = ptr.To(DefaultHistoryLimit)
	}
	if obj.DeletionPolicy == "" {
		obj.DeletionPolicy = DeletionPolicyDelete
	}
}

// SetDefaults_SandboxSpec fills in what becomes of a sandbox's files when its Pod is to go, and at its expireTime.
// spec.onExit has no default: what its absence means depends on the template. spec.expireAction has one only where there is
// an expireTime: a sandbox that never expires shall not seem to be about to be deleted.
func SetDefaults_SandboxSpec(obj *SandboxSpec) {
	if obj.EvictionPolicy == "" {
		obj.EvictionPolicy = EvictionPolicySave
	}
	if obj.ExpireTime != nil && obj.ExpireAction == "" {
		obj.ExpireAction = ExpireActionDelete
	}
}

// SetDefaults_SandboxSnapshotSpec fills in what becomes of the images of a deleted snapshot.
func SetDefaults_SandboxSnapshotSpec(obj *SandboxSnapshotSpec) {
	switch {
	case obj.DeletionPolicy != "":
	case obj.Source != nil:
		obj.DeletionPolicy = DeletionPolicyRetain
	default:
		obj.DeletionPolicy = DeletionPolicyDelete
	}
}
