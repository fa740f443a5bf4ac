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

package sandbox

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/validation"
)

// VerbStrategy is how pause and resume change a sandbox: desired state and status in one write,
// as Pause and Resume have decided it.
type VerbStrategy struct {
	Strategy
	warnings func(sandbox *lifecycle.Sandbox) []string
}

var _ rest.RESTUpdateStrategy = VerbStrategy{}

// NewPauseStrategy makes the pause strategy of a strategy. It warns of volumes whose content a
// pause does not keep.
func NewPauseStrategy(strategy Strategy) VerbStrategy {
	return VerbStrategy{Strategy: strategy, warnings: volumeWarnings}
}

// NewResumeStrategy makes the resume strategy of a strategy.
func NewResumeStrategy(strategy Strategy) VerbStrategy {
	return VerbStrategy{Strategy: strategy, warnings: func(s *lifecycle.Sandbox) []string { return expiryWarnings(s, strategy.clock.Now()) }}
}

// PrepareForUpdate keeps the decided status, unlike an update by a user.
func (s VerbStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	raiseGeneration(obj.(*lifecycle.Sandbox), old.(*lifecycle.Sandbox))
	s.stampPhase(obj.(*lifecycle.Sandbox), old.(*lifecycle.Sandbox))
}

// ValidateUpdate checks the decided status. The spec is as it was but for the desired state: to
// check it again could only make a sandbox of an older server impossible to pause.
func (VerbStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateSandboxStatusUpdate(obj.(*lifecycle.Sandbox), old.(*lifecycle.Sandbox))
}

// WarningsOnUpdate tells the caller what the verb does not keep.
func (s VerbStrategy) WarningsOnUpdate(_ context.Context, obj, _ runtime.Object) []string {
	return s.warnings(obj.(*lifecycle.Sandbox))
}
