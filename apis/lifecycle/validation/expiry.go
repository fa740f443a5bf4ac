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

package validation

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

var expireActions = sets.New(lifecycle.ExpireActionDelete, lifecycle.ExpireActionPause)

// lastExpiry is the last time that the API can write: a year of five digits is read by nothing, not by the store either.
var lastExpiry = time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)

// validateExpireAction checks the word alone. What has no expireTime needs none.
func validateExpireAction(spec *lifecycle.SandboxSpec, path *field.Path) field.ErrorList {
	if spec.ExpireAction == "" && spec.ExpireTime == nil || expireActions.Has(spec.ExpireAction) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path.Child("expireAction"), spec.ExpireAction, sets.List(expireActions))}
}

// validateExpireTime checks a time that is being set.
func validateExpireTime(expire *metav1.Time, path *field.Path, now time.Time) field.ErrorList {
	switch {
	case expire == nil:
		return nil
	case !expire.After(now):
		return field.ErrorList{field.Invalid(path, written(expire), fmt.Sprintf(
			"must be in the future, and it is %s by the server's clock; leave it out for a sandbox that never expires", now.UTC().Format(time.RFC3339)))}
	case expire.After(lastExpiry):
		return field.ErrorList{field.Invalid(path, written(expire), "must not be after "+lastExpiry.Format(time.RFC3339)+"; leave it out for a sandbox that never expires")}
	}
	return nil
}

// validateExpiryUpdate checks a change of when a sandbox expires, and of what happens then. A time that has passed since it was set
// is no obstacle to anything else.
func validateExpiryUpdate(sandbox, old *lifecycle.Sandbox, path *field.Path, now time.Time) field.ErrorList {
	timeChanges := !sandbox.Spec.ExpireTime.Equal(old.Spec.ExpireTime)
	actionChanges := sandbox.Spec.ExpireAction != old.Spec.ExpireAction
	expireTime, expireAction := path.Child("expireTime"), path.Child("expireAction")
	switch {
	case !timeChanges && !actionChanges:
		return nil
	case old.DeletionTimestamp != nil:
		// Or it would be told that it goes on living.
		changed := expireTime
		if !timeChanges {
			changed = expireAction
		}
		return field.ErrorList{field.Forbidden(changed, "the sandbox is being deleted, which nothing takes back; create another")}
	case timeChanges:
		return validateExpireTime(sandbox.Spec.ExpireTime, expireTime, now)
	case sandbox.Spec.ExpireAction == lifecycle.ExpireActionDelete && sandbox.Spec.ExpireTime != nil && !sandbox.Spec.ExpireTime.After(now):
		return field.ErrorList{field.Invalid(expireAction, sandbox.Spec.ExpireAction, fmt.Sprintf(
			"spec.expireTime (%s) has passed, so this would delete the sandbox at once; set another spec.expireTime with it, or delete the sandbox", written(sandbox.Spec.ExpireTime)))}
	}
	return nil
}

func written(t *metav1.Time) string { return t.UTC().Format(time.RFC3339) }
