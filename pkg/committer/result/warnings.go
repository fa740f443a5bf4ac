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

package result

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Warning is something that an image does not hold, or that could not be guaranteed of
// it.
type Warning struct {
	Reason Reason `json:"reason"`
	// Container is the container's name in its Pod; empty where it is about all of them.
	Container string `json:"container,omitempty"`
	// Path is the file or directory in that container.
	Path string `json:"path,omitempty"`
	// Message is a sentence for a person.
	Message string `json:"message,omitempty"`
}

// The reasons are part of the API: they are those of a SandboxSnapshot's warnings.
const (
	// MountNotKept: something that is mounted in the container is not in the image.
	MountNotKept Reason = "MountNotKept"
	// BaseRebuilt: the container's image was gone, and what is below its files was made
	// again from what the node still had.
	BaseRebuilt Reason = "BaseRebuilt"
	// WarningsOmitted: there were more warnings than a report holds.
	WarningsOmitted Reason = "WarningsOmitted"
)

// What warnings may take of a termination message: room is left for any number of
// containers, and for what is said of several of them.
const (
	maxWarnings     = 12
	maxWarningBytes = 160
)

// bounded are the first warnings, at most so many in all, each of bounded size. Where
// some are left out the last one says how many; none at all says nothing.
func bounded(warnings []Warning, most int) []Warning {
	var kept []Warning
	for _, w := range warnings[:min(len(warnings), max(most, 0))] {
		w.Path, w.Message = short(w.Path), short(w.Message)
		kept = append(kept, w)
	}
	if omitted := len(warnings) - len(kept); omitted > 0 && len(kept) > 0 {
		kept[len(kept)-1] = Warning{Reason: WarningsOmitted, Message: fmt.Sprintf("%d more warnings are in the commit's log", omitted+1)}
	}
	return kept
}

// short cuts what is longer than a report has room for. Paths are of any bytes, JSON is not.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) { // a terminal would obey it
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	if len(s) <= maxWarningBytes {
		return s
	}
	return cut(s, maxWarningBytes-len(ellipsis))
}
