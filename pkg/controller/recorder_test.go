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
	"strings"
	"testing"
	"unicode/utf8"

	"k8s.io/client-go/tools/events"
)

func TestNotesAreCutToWhatTheAPITakes(t *testing.T) {
	recorder := events.NewFakeRecorder(1)
	for name, text := range map[string]string{"short": "a 100% sentence", "long": strings.Repeat("x", 5000), "of many bytes": "x" + strings.Repeat("é", 5000), "just fits": strings.Repeat("x", maxNote)} {
		boundedRecorder{recorder}.Eventf(nil, nil, "Normal", "Reason", "Act", "%s", text)
		got := strings.TrimPrefix(<-recorder.Events, "Normal Reason ")
		if len(got) > maxNote || !utf8.ValidString(got) || len(text) <= maxNote && got != text || len(text) > maxNote && len(got) < maxNote-4 {
			t.Errorf("%s: %d bytes: %.80q", name, len(got), got)
		}
	}
}
