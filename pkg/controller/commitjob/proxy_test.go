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
	"strings"
	"testing"
)

func TestProxy(t *testing.T) {
	tests := map[string]struct {
		environment map[string]string
		want        string
		fails       string
	}{
		"none":                {nil, "", ""},
		"all":                 {map[string]string{"HTTPS_PROXY": "http://proxy:3128", "HTTP_PROXY": "proxy:3128", "NO_PROXY": ".svc,10.0.0.0/8"}, "HTTP_PROXY=proxy:3128 HTTPS_PROXY=http://proxy:3128 NO_PROXY=.svc,10.0.0.0/8", ""},
		"in small letters":    {map[string]string{"https_proxy": "socks5://proxy:1080"}, "HTTPS_PROXY=socks5://proxy:1080", ""},
		"both":                {map[string]string{"https_proxy": "http://other", "HTTPS_PROXY": "http://proxy"}, "HTTPS_PROXY=http://proxy", ""},
		"with credentials":    {map[string]string{"HTTPS_PROXY": "http://me:hunter2@proxy:3128"}, "", "HTTPS_PROXY"},
		"without a scheme":    {map[string]string{"http_proxy": "me:hunter2@proxy:3128"}, "", "HTTP_PROXY"},
		"a name alone":        {map[string]string{"HTTPS_PROXY": "http://me@proxy:3128"}, "", "HTTPS_PROXY"},
		"of odd characters":   {map[string]string{"HTTPS_PROXY": "http://me:hun%ter2@proxy:3128"}, "", "HTTPS_PROXY"},
		"of another protocol": {map[string]string{"HTTPS_PROXY": "socks5://me:hunter2@proxy:1080"}, "", "HTTPS_PROXY"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			found, err := Proxy(func(name string) string { return test.environment[name] })
			var got []string
			for _, variable := range found {
				got = append(got, variable.Name+"="+variable.Value)
			}
			if strings.Join(got, " ") != test.want || (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
				t.Errorf("got %q, %v; want %q, %q", got, err, test.want, test.fails)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("it tells the secret: %v", err)
			}
		})
	}
}

// TestTheCommitsNetwork has what a commit needs to reach the registry, and nothing else has.
func TestTheCommitsNetwork(t *testing.T) {
	plain, ofNode, byNode, proxied := config(), config(), config(), config()
	ofNode.RegistryOfNode, byNode.HostNetwork = true, true
	var err error
	if proxied.Proxy, err = Proxy(func(name string) string { return map[string]string{"HTTPS_PROXY": "http://proxy:3128"}[name] }); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		config *Config
		host   bool
		proxy  string
	}{
		"plain": {config: plain}, "the registry is the node's": {config: ofNode, host: true}, "the node reaches it": {config: byNode, host: true}, "proxied": {config: proxied, proxy: "http://proxy:3128"},
	} {
		for _, leaveFrozen := range []bool{true, false} {
			pod := commitOf(t, test.config, "demo-gen1", leaveFrozen).Spec.Template.Spec
			proxy := ""
			for _, variable := range pod.Containers[0].Env {
				proxy += variable.Value
			}
			if pod.HostNetwork != test.host || proxy != test.proxy {
				t.Errorf("%s: the node's network %v, proxy %q; want %v, %q", name, pod.HostNetwork, proxy, test.host, test.proxy)
			}
		}
		unpause := test.config.Unpause(snapshotNamed("demo-gen1"), demoSource()).Spec.Template.Spec
		if unpause.HostNetwork || len(unpause.Containers[0].Env) > 0 {
			t.Errorf("%s: an unpause has a network: %+v", name, unpause)
		}
	}
}
