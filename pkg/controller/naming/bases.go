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

package naming

import (
	"fmt"
	"regexp"
	"strings"
)

// DefaultBaseRepository is no name of a namespace, which the repositories of snapshots begin with.
const DefaultBaseRepository = "sandbox_bases"

// BaseRepository is the repository below the registry that keeps what all sandboxes of a base image share. There is none
// without a path, and none is needed where all images have one repository.
func (t *ImageTemplate) BaseRepository(path string) string {
	at := strings.LastIndex(t.template, ":")
	if path == "" || t.registry == "" || !strings.ContainsAny(strings.TrimPrefix(t.template[:at], "{registry}"), "{}") {
		return ""
	}
	return t.registry + "/" + path
}

// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
var repositoryPath = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

// CheckBaseRepository checks what is given to BaseRepository.
func CheckBaseRepository(path string) error {
	if path != "" && !repositoryPath.MatchString(path) {
		return fmt.Errorf("--snapshot-base-repository %q must be a path below --snapshot-registry, as in %s, without a registry, a tag or a digest", path, DefaultBaseRepository)
	}
	return nil
}
