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
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ExpireAt is a time as spec.expireTime holds it: to the second, rounded up. A metav1.Time leaves a fraction out where it is
// written, so that a sandbox would expire up to a second before the time that was asked for; whoever sends a time
// with a fraction from Go rounds it up with this first. The server does so with what comes as text.
//
// A metav1.MicroTime would hold the fraction. It takes no time without one, which is what people write.
func ExpireAt(t time.Time) *metav1.Time {
	whole := t.Truncate(time.Second)
	if whole.Before(t) {
		whole = whole.Add(time.Second)
	}
	return &metav1.Time{Time: whole}
}
