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

package registry

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// FuzzKeychain reads any docker configuration, and asks it for credentials of a repository: it
// answers, or refuses the configuration without repeating what is secret in it.
func FuzzKeychain(f *testing.F) {
	for _, config := range []string{
		"", "{}", "null", `{"auths":null}`, `{"auths":[]}`, `{"auths":{"":{}}}`, `{"auths":{"a":null}}`, `{"auths":{"a":{"auth":7}}}`,
		`{"auths":{"https://index.docker.io/v1/":{"auth":"aHVudGVyMjpodW50ZXIy"}}}`, `{"auths":{"[fd00::1]:5000/a/b":{"username":"u","password":"p"}}}`,
		`{"auths":{"*.example.com":{"auth":"aHVudGVyMg=="},"[":{"auth":"OjpodW50ZXIy"},"a[b":{}}}`, `{"auths":{"a":{"auth":"!hunter2"}}}`,
		`{"auths":{"a":{"identitytoken":"t","registrytoken":"t"}},"credHelpers":{"a":"b"},"HttpHeaders":{"x":"y"}}`,
	} {
		f.Add([]byte(config), "registry.example.com/a/b")
		f.Add([]byte(config), "[fd00::1]:5000/a/b")
		f.Add([]byte(config), "a/b")
	}
	f.Fuzz(func(t *testing.T, config []byte, repository string) {
		k, err := parseKeychain(config)
		if err != nil {
			var reasoned *result.Error
			if !errors.As(err, &reasoned) || reasoned.Reason != result.PushSecretInvalid {
				t.Fatalf("%q is refused with %v", config, err)
			}
			// The seeds' secret, or what its base64 says. A host may be repeated, and is no secret.
			for _, secret := range []string{"hunter2", base64.StdEncoding.EncodeToString([]byte("hunter2"))} {
				if strings.Contains(err.Error(), secret) && !bytes.Contains(hosts(config), []byte(secret)) {
					t.Fatalf("the secret in %q is in the message: %v", config, err)
				}
			}
			return
		}
		target, err := name.NewRepository(repository)
		if err != nil {
			return
		}
		auth, err := k.Resolve(target)
		if err != nil {
			t.Fatalf("%q has no answer for %s: %v", config, repository, err)
		}
		if _, err := auth.Authorization(); err != nil {
			t.Fatalf("%q has no credentials for %s: %v", config, repository, err)
		}
	})
}

// hosts are the keys of the configuration, as they are written.
func hosts(config []byte) []byte {
	var parsed struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	_ = json.Unmarshal(config, &parsed)
	var keys []byte
	for key := range parsed.Auths {
		keys = append(append(keys, key...), '\n')
	}
	return keys
}

// FuzzCredentials writes down the credentials of one host as `kubectl create secret
// docker-registry` does, and finds them again.
func FuzzCredentials(f *testing.F) {
	f.Add("registry.example.com", "user", "password")
	f.Add("registry.example.com:5000/a", "", "p:w")
	f.Add("localhost:80", "ü", "\x00")
	f.Fuzz(func(t *testing.T, host, username, password string) {
		target, err := name.NewRepository(host + "/repository")
		// Names that are not written as they are read: docker.io's, and paths alone.
		if err != nil || !strings.HasPrefix(host, target.RegistryStr()) || strings.Contains(username, ":") || username == "" && password == "" {
			return
		}
		config, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{
			"username": username, "password": password, "auth": base64.StdEncoding.EncodeToString([]byte(username + ":" + password)),
		}}})
		if err != nil {
			t.Fatal(err)
		}
		k, err := parseKeychain(config)
		if err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		auth, err := k.Resolve(target)
		if err != nil {
			t.Fatal(err)
		}
		got, err := auth.Authorization()
		if err != nil || got.Username != username || got.Password != password {
			t.Fatalf("%s: got %q and %q, want %q and %q (%v)", config, got.Username, got.Password, username, password, err)
		}
	})
}
