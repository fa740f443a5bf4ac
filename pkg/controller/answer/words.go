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

package answer

import (
	"fmt"
	"regexp"
	"strings"
)

const (
	// MaxNote is the longest note of an Event, in bytes: the API refuses longer ones, and nobody would hear of it.
	// https://github.com/kubernetes/kubernetes/blob/v1.37.0/pkg/apis/core/validation/events.go
	MaxNote = 1024
	// MaxCondition is the longest message of a condition, in bytes. The API would take 32,768, but each list and each
	// watch carries all conditions of an object, and they quote each other.
	MaxCondition = 4096
)

// Note is a text as the note of an Event holds it.
func Note(text string) string { return Cut(text, MaxNote) }

// Condition is a text as the message of a condition holds it.
func Condition(text string) string { return Cut(text, MaxCondition) }

// Cut is a text in at most so many bytes, at least 128, and in valid UTF-8, without which nothing can be stored. Of one
// that is longer the beginning is kept, which says what was asked, and the end, which says what follows, or has
// the cause where errors are wrapped.
func Cut(text string, most int) string {
	if len(text) <= most {
		if text = strings.ToValidUTF8(text, "\uFFFD"); len(text) <= most {
			return text
		}
	}
	gap := fmt.Sprintf(" … (%d bytes left out) … ", len(text)) // at least as long as the one below
	end := (most - len(gap)) / 4
	begin := most - len(gap) - end
	// What is not valid is dropped here: the cuts go through characters.
	head, tail := strings.ToValidUTF8(text[:begin], ""), strings.ToValidUTF8(text[len(text)-end:], "")
	return head + fmt.Sprintf(" … (%d bytes left out) … ", len(text)-len(head)-len(tail)) + tail
}

// reasons are what the API takes as the reason of a condition, and of an Event.
// https://github.com/kubernetes/kubernetes/blob/v1.37.0/staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/types.go (Condition)
var reasons = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]{0,126}[A-Za-z0-9_])?$`)

// Reason is a reason that comes from another program, or otherwise where no condition can have it: a status with it
// could not be written, and whoever waits for that would wait for ever.
func Reason(reason, otherwise string) string {
	if reasons.MatchString(reason) {
		return reason
	}
	return otherwise
}
