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

package controller

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
)

// maxNote is the longest note of an Event: the API refuses longer ones, and nobody would hear of it.
// https://github.com/kubernetes/kubernetes/blob/v1.37.0/pkg/apis/core/validation/events.go
const maxNote = 1024

// boundedRecorder cuts notes that the API would refuse. The condition that goes with the Event has them whole.
type boundedRecorder struct{ events.EventRecorder }

func (r boundedRecorder) Eventf(regarding, related runtime.Object, kind, reason, action, format string, args ...any) {
	r.EventRecorder.Eventf(regarding, related, kind, reason, action, "%s", note(fmt.Sprintf(format, args...)))
}

func note(text string) string {
	const ellipsis = "…"
	if len(text) <= maxNote {
		return text
	}
	return strings.ToValidUTF8(text[:maxNote-len(ellipsis)], "") + ellipsis
}
