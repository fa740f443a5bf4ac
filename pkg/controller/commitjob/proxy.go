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

package commitjob

import (
	"fmt"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// proxyVariables are what net/http goes by, in the program of commits as in the server.
var proxyVariables = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}

// Proxy reads the server's proxies, for commits to use the same. One with credentials is refused:
// whoever reads a commit Pod would read them.
func Proxy(getenv func(string) string) ([]corev1.EnvVar, error) {
	var all []corev1.EnvVar
	for _, name := range proxyVariables {
		value := getenv(name)
		if value == "" {
			value = getenv(strings.ToLower(name))
		}
		if value == "" {
			continue
		}
		if name != "NO_PROXY" && hasCredentials(value) {
			return nil, fmt.Errorf("the environment variable %s holds credentials, which everybody would see who can read commit Pods: let the proxy know nodes by their addresses instead, and name it without", name)
		}
		all = append(all, corev1.EnvVar{Name: name, Value: value})
	}
	return all, nil
}

// hasCredentials errs on the side of secrecy.
func hasCredentials(proxy string) bool {
	u, err := url.Parse(proxy)
	if err != nil || u.Host == "" { // as host:port
		u, err = url.Parse("http://" + proxy)
	}
	return err != nil || u.User != nil || strings.Contains(proxy, "@")
}
