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

package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	"sigs.k8s.io/yaml"
)

// entry is what the Secret has of one key: JSON or YAML, under a name that is only for people.
type entry struct {
	// SHA256 is the key's, in hexadecimal digits. The key itself is nowhere.
	SHA256 string `json:"sha256"`
	// User and Groups are those of the cluster that the key stands for.
	User   string   `json:"user"`
	Groups []string `json:"groups,omitempty"`
	// Namespace is where its sandboxes are; empty: the gateway's default.
	Namespace string `json:"namespace,omitempty"`
}

// parsed is an entry that can be used.
type parsed struct {
	sum       [sha256.Size]byte
	user      *user.DefaultInfo
	namespace string
}

func parse(data []byte, defaultNamespace string) (parsed, error) {
	var e entry
	// What the parser says holds a part of the text, so it is not told: somebody may have put the key there.
	if err := yaml.UnmarshalStrict(data, &e); err != nil {
		return parsed{}, errors.New("is no JSON or YAML object of sha256, user, groups and namespace alone")
	}
	sum, err := hex.DecodeString(strings.TrimPrefix(e.SHA256, "sha256:"))
	if err != nil || len(sum) != sha256.Size {
		return parsed{}, errors.New("sha256 has to be the key's SHA-256 in 64 hexadecimal digits: printf %s \"$KEY\" | sha256sum")
	}
	if e.User == "" {
		return parsed{}, errors.New("user is empty: a key stands for a user of the cluster")
	}
	if slices.Contains(e.Groups, "") {
		return parsed{}, errors.New("groups has an empty name")
	}
	if e.Namespace == "" {
		e.Namespace = defaultNamespace
	}
	if causes := validation.ValidateNamespaceName(e.Namespace, false); len(causes) > 0 {
		return parsed{}, fmt.Errorf("namespace %q is none: %s", e.Namespace, strings.Join(causes, ", "))
	}
	return parsed{sum: [sha256.Size]byte(sum), user: &user.DefaultInfo{Name: e.User, Groups: e.Groups}, namespace: e.Namespace}, nil
}
