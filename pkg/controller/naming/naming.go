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

// Package naming makes the names that the controllers give: deterministic, so that a step that
// is run twice finds what the first run made.
package naming

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// PauseSnapshot is the name of the snapshot of a sandbox's pause attempt.
func PauseSnapshot(sandbox string, attempt int64) string {
	return fmt.Sprintf("%s-gen%d", sandbox, attempt)
}

// RescueSnapshot is the name of a snapshot of what a sandbox's ended containers left.
func RescueSnapshot(sandbox string, number int64) string {
	return fmt.Sprintf("%s-rescue%d", sandbox, number)
}

// CommitJob is the name of the Job that commits a snapshot.
func CommitJob(namespace, snapshot string, uid types.UID) string {
	return job(namespace, snapshot, uid, "commit")
}

// UnpauseJob is the name of the Job that thaws what a snapshot's commit froze.
func UnpauseJob(namespace, snapshot string, uid types.UID) string {
	return job(namespace, snapshot, uid, "unpause")
}

// UncacheJob is the name of the Job that removes from a node what was kept there for a snapshot.
func UncacheJob(namespace, snapshot string, uid types.UID) string {
	return job(namespace, snapshot, uid, "uncache")
}

// job ends in a hash of namespace and UID, because the Jobs of all namespaces lie in one. The
// readable part is cut so that the whole fits a label value: the Job controller labels Pods
// with it.
func job(namespace, snapshot string, uid types.UID, purpose string) string {
	sum := sha256.Sum256([]byte(namespace + "/" + string(uid)))
	suffix := "-" + purpose + "-" + hex.EncodeToString(sum[:4])
	return cut(snapshot, validation.DNS1123LabelMaxLength-len(suffix)) + suffix
}

// LabelValue is the name as far as a label can hold it. Labels are for people; what must be
// found exactly is found by UID.
func LabelValue(name string) string {
	return cut(name, validation.LabelValueMaxLength)
}

func cut(name string, limit int) string {
	if len(name) > limit {
		name = name[:limit]
	}
	return strings.TrimRight(name, "-.")
}
