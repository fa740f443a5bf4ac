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
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

func entry(user string) string {
	return `{"auth":"` + base64.StdEncoding.EncodeToString([]byte(user+":pass:word")) + `"}`
}

func TestKeychain(t *testing.T) {
	config := `{"credHelpers":{"x":"y"},"auths":{
		"https://scheme.example.com":` + entry("scheme") + `,
		"http://path.example.com/v2/":` + entry("v2") + `,
		"https://slash.example.com/":` + entry("slash") + `,
		"port.example.com:5000":` + entry("port") + `,
		"[fd00::1]:5000":` + entry("six") + `,
		"UPPER.example.com":` + entry("upper") + `,
		"https://index.docker.io/v1/":` + entry("hub") + `,
		"tenants.example.com":` + entry("host") + `,
		"tenants.example.com/a":` + entry("a") + `,
		"tenants.example.com/a/b":` + entry("ab") + `,
		"*.wild.example.com":` + entry("wild") + `,
		"exact.wild.example.com":` + entry("exact") + `,
		"fields.example.com":{"username":"fields","password":"p"},
		"token.example.com":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("00000000:")) + `","identitytoken":"idt"},
		"unpadded.example.com":{"auth":"` + base64.RawStdEncoding.EncodeToString([]byte("unpadded:p")) + `"},
		"empty.example.com":{}
	}}`
	k, err := parseKeychain([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string]string{
		"scheme.example.com/x":       "scheme",
		"scheme.example.com:443/x":   "", // another address, as for the kubelet
		"path.example.com/x":         "v2",
		"slash.example.com/x":        "slash",
		"port.example.com:5000/x":    "port",
		"port.example.com/x":         "",
		"[fd00::1]:5000/x":           "six",
		"upper.example.com/x":        "upper",
		"docker.io/library/x":        "hub",
		"index.docker.io/library/x":  "hub",
		"tenants.example.com/c":      "host",
		"tenants.example.com/a":      "a",
		"tenants.example.com/a/c":    "a",
		"tenants.example.com/a/b/c":  "ab",
		"tenants.example.com/ab":     "host",
		"one.wild.example.com/x":     "wild",
		"exact.wild.example.com/x":   "exact",
		"one.two.wild.example.com/x": "",
		"fields.example.com/x":       "fields",
		"unpadded.example.com/x":     "unpadded",
		"empty.example.com/x":        "",
		"other.org/x":                "",
	} {
		target, err := name.NewRepository(repo)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := k.Resolve(target)
		if err != nil {
			t.Fatal(err)
		}
		got, err := auth.Authorization()
		if err != nil {
			t.Fatal(err)
		}
		if got.Username != want {
			t.Errorf("%s: got user %q, want %q", repo, got.Username, want)
		}
		if want == "" && auth != authn.Anonymous {
			t.Errorf("%s: not anonymous", repo)
		}
		if want == "scheme" && got.Password != "pass:word" {
			t.Errorf("password %q", got.Password)
		}
	}
	target, _ := name.NewRepository("token.example.com/x")
	auth, _ := k.Resolve(target)
	if got, err := auth.Authorization(); err != nil || got.IdentityToken != "idt" {
		t.Errorf("identity token: %+v, %v", got, err)
	}
}

func TestBadCredentials(t *testing.T) {
	const secret = "hunter2"
	for name, config := range map[string]string{
		"not JSON":        secret,
		"a list":          `["` + secret + `"]`,
		"entry of a list": `{"auths":{"a":["` + secret + `"]}}`,
		"not base64":      `{"auths":{"a":{"auth":"!` + secret + `"}}}`,
		"no colon":        `{"auths":{"a":{"auth":"` + base64.StdEncoding.EncodeToString([]byte(secret)) + `"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseKeychain([]byte(config))
			var reasoned *result.Error
			if !errors.As(err, &reasoned) || reasoned.Reason != result.PushSecretInvalid {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), base64.StdEncoding.EncodeToString([]byte(secret))) {
				t.Errorf("the secret is in the message: %v", err)
			}
		})
	}
	if _, err := New(Options{ConfigFile: filepath.Join(t.TempDir(), "missing")}); result.From(err).Reason != result.PushSecretInvalid || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
