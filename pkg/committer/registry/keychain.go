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
	"encoding/json"
	"net"
	"os"
	"path"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// keychain finds credentials as the kubelet does for the same kind of Secret:
// a key is a host, with or without scheme, port and path; a host may have
// wildcards; the longest path that fits wins.
// https://kubernetes.io/docs/concepts/containers/images/#config-json
type keychain []credential

type credential struct {
	host, port, path string
	auth             authn.AuthConfig
}

var _ authn.Keychain = keychain(nil)

// loadKeychain reads a .dockerconfigjson. Errors never carry its content.
func loadKeychain(o Options) (keychain, error) {
	data := o.Config
	if o.ConfigFile != "" {
		var err error
		if data, err = os.ReadFile(o.ConfigFile); err != nil {
			return nil, result.Errorf(result.PushSecretInvalid, "reading the registry credentials: %w", err)
		}
	} else if len(data) == 0 {
		return nil, nil
	}
	return parseKeychain(data)
}

func parseKeychain(data []byte) (keychain, error) {
	var config struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	if json.Unmarshal(data, &config) != nil {
		return nil, result.Errorf(result.PushSecretInvalid, `the push secret is not a docker configuration: it has to be JSON with "auths"`)
	}
	var k keychain
	for key, raw := range config.Auths {
		c := parseKey(key)
		if json.Unmarshal(raw, &c.auth) != nil {
			return nil, result.Errorf(result.PushSecretInvalid, `the push secret's entry for %q cannot be read: "auth" has to be base64 of user:password`, key)
		}
		k = append(k, c)
	}
	sort.Slice(k, func(i, j int) bool {
		if len(k[i].path) != len(k[j].path) {
			return len(k[i].path) > len(k[j].path)
		}
		// A host that is spelled out before a wildcard, and always the same order.
		if wi, wj := strings.Contains(k[i].host, "*"), strings.Contains(k[j].host, "*"); wi != wj {
			return wj
		}
		return k[i].host+k[i].port < k[j].host+k[j].port
	})
	return k, nil
}

func parseKey(key string) credential {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	authority, rest, _ := strings.Cut(key, "/")
	rest = strings.Trim(rest, "/")
	if rest == "v1" || rest == "v2" { // of an API's address, not of a repository
		rest = ""
	}
	host, port := splitPort(authority)
	return credential{host: host, port: port, path: rest}
}

func splitPort(authority string) (host, port string) {
	host = authority
	if h, p, err := net.SplitHostPort(authority); err == nil {
		host, port = h, p
	}
	host = strings.ToLower(host)
	if host == name.DefaultRegistry || host == "registry-1.docker.io" {
		host = "docker.io" // one registry with several names
	}
	return host, port
}

// Resolve returns the credentials for a registry or repository, or none.
func (k keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	host, port := splitPort(target.RegistryStr())
	repository := strings.TrimPrefix(strings.TrimPrefix(target.String(), target.RegistryStr()), "/")
	for _, c := range k {
		if c.port == port && matchHost(c.host, host) && matchPath(c.path, repository) && c.auth != (authn.AuthConfig{}) {
			return authn.FromConfig(c.auth), nil
		}
	}
	return authn.Anonymous, nil
}

// matchHost lets a wildcard stand for part of one label, never for a dot.
func matchHost(pattern, host string) bool {
	patterns, labels := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(patterns) != len(labels) {
		return false
	}
	for i := range patterns {
		if ok, err := path.Match(patterns[i], labels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func matchPath(prefix, repository string) bool {
	return prefix == "" || repository == prefix || strings.HasPrefix(repository, prefix+"/")
}
