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

package gateway

import (
	"fmt"
	"net/http"

	"sigs.k8s.io/yaml"

	document "github.com/opensandbox-io/sandbox-apiserver/apis/http"
)

// serveDocument returns the handler of /openapi.json.
func serveDocument() (http.HandlerFunc, error) {
	text, err := yaml.YAMLToJSON(document.Document)
	if err != nil {
		return nil, fmt.Errorf("reading the document of the API: %w", err)
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(text)
	}, nil
}
