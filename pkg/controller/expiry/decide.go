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

package expiry

import (
	"fmt"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// Deed is what is done to a sandbox whose time has come.
type Deed string

const (
	// Nothing: it never expires, is gone already, or is what it shall be.
	Nothing Deed = ""
	// Wait: its time is still to come.
	Wait Deed = "wait"
	// Delete it.
	Delete Deed = "delete"
	// Pause it, as somebody would who asks for that.
	Pause Deed = "pause"
)

// Decide is what is to be done to a sandbox now, and for how long it is to be waited. No I/O.
func Decide(sandbox *v1alpha1.Sandbox, now time.Time) (Deed, time.Duration) {
	deed := atExpiry(sandbox)
	if deed == Nothing {
		return Nothing, 0
	}
	if left := sandbox.Spec.ExpireTime.Sub(now); left > 0 {
		return Wait, left
	}
	if deed == Pause && sandbox.Status.Phase == v1alpha1.SandboxFailed && sandbox.Status.PodUID == "" {
		// There are no resources to release. The verb would take what is lost for accepted, which is for a person to say.
		return Nothing, 0
	}
	return deed, 0
}

// atExpiry is what becomes of the sandbox at its expireTime, as things are now.
func atExpiry(sandbox *v1alpha1.Sandbox) Deed {
	expire := sandbox.Spec.ExpireTime
	if expire == nil || sandbox.DeletionTimestamp != nil {
		return Nothing
	}
	switch sandbox.Spec.ExpireAction {
	case v1alpha1.ExpireActionDelete:
		return Delete
	case v1alpha1.ExpireActionPause:
		if sandbox.Spec.DesiredState == v1alpha1.DesiredStatePaused || answered(sandbox) {
			return Nothing
		}
		return Pause
	}
	return Nothing // what a newer server has written, and means something that this one does not know
}

// answered says whether somebody has asked for something since the sandbox's expireTime: whoever resumes a sandbox that
// has expired wants it to run, and would have it paused at once otherwise.
func answered(sandbox *v1alpha1.Sandbox) bool {
	asked := sandbox.Status.LastRequestTime
	return asked != nil && !asked.Time.Before(sandbox.Spec.ExpireTime.Time)
}

// announcement is the sentence that tells of what is about to happen.
func announcement(sandbox *v1alpha1.Sandbox) string {
	at := sandbox.Spec.ExpireTime.UTC().Format(time.RFC3339)
	if atExpiry(sandbox) == Pause {
		return fmt.Sprintf("the sandbox will be paused at %s (spec.expireTime); set a later time to have it run on", at)
	}
	return fmt.Sprintf("the sandbox will be deleted at %s (spec.expireTime), with its pause snapshots; set a later time, or spec.expireAction Pause, to keep it", at)
}

// news is the sentence that tells of what has happened.
func news(sandbox *v1alpha1.Sandbox, deed Deed) string {
	at := sandbox.Spec.ExpireTime.UTC().Format(time.RFC3339)
	if deed == Pause {
		return fmt.Sprintf("the sandbox is being paused: spec.expireTime (%s) has passed; once it is resumed it runs on until another time is set", at)
	}
	return fmt.Sprintf("the sandbox is being deleted, with its pause snapshots: spec.expireTime (%s) has passed", at)
}
