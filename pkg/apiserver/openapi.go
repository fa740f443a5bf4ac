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

package apiserver

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/managedfields"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kube-openapi/pkg/builder3"
	openapicommon "k8s.io/kube-openapi/pkg/common"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/generated/openapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/apiserver/scheme"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/evictionreview"
)

const openAPITitle = "Sandbox API server"

// undescribed are paths that are kube-apiserver's to call, with kinds of its own.
var undescribed = []string{"/apis/" + v1alpha1.GroupName + "/" + v1alpha1.SchemeGroupVersion.Version + "/" + evictionreview.Resource}

// OpenAPIConfig describes the API for OpenAPI v2, which kubectl explain of old clients reads.
func OpenAPIConfig() *openapicommon.Config {
	config := genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, openapinamer.NewDefinitionNamer(scheme.Scheme))
	config.Info.Title = openAPITitle
	config.IgnorePrefixes = undescribed
	return config
}

// OpenAPIV3Config describes the API for OpenAPI v3, which server-side apply is built upon.
func OpenAPIV3Config() *openapicommon.OpenAPIV3Config {
	config := genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, openapinamer.NewDefinitionNamer(scheme.Scheme))
	config.Info.Title = openAPITitle
	config.IgnorePrefixes = undescribed
	return config
}

// newTypeConverter makes what field managers read the structure of a Sandbox with. The generic
// server makes its own when it installs the group, and keeps it to itself.
func newTypeConverter(config *openapicommon.OpenAPIV3Config) (managedfields.TypeConverter, error) {
	definitions, err := builder3.BuildOpenAPIDefinitionsForResources(config, v1alpha1.Sandbox{}.OpenAPIModelName())
	if err != nil {
		return nil, fmt.Errorf("building the OpenAPI definition of Sandbox: %w", err)
	}
	return managedfields.NewTypeConverter(definitions, false)
}
