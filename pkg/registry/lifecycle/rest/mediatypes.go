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

package rest

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
)

// textOnly speaks JSON and YAML. Our types have no protobuf form, and a client that prefers it
// would learn so only from the failure to encode the answer: after its write, and in a watch not at
// all. Left out here, it is refused before anything is done, or answered in the next format that
// it accepts.
type textOnly struct {
	runtime.NegotiatedSerializer
}

// SupportedMediaTypes are the formats of requests and answers.
func (s textOnly) SupportedMediaTypes() []runtime.SerializerInfo {
	return slices.DeleteFunc(slices.Clone(s.NegotiatedSerializer.SupportedMediaTypes()), func(info runtime.SerializerInfo) bool {
		return info.MediaType != runtime.ContentTypeJSON && info.MediaType != runtime.ContentTypeYAML
	})
}
