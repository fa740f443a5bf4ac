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

package artifacts

import (
	"context"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"
)

// judge judges by a policy as kube-apiserver does (compilePolicy of its pkg/admission/plugin/policy/validating).
type judge struct {
	validating.Validator
	params runtime.Object
}

// asked is a request that a policy judges.
type asked struct {
	who         string
	may         []string // further rights of who, each "verb resource" or "verb resource name"
	operation   admission.Operation
	resource    schema.GroupVersionResource
	subresource string
	kind        schema.GroupVersionKind
	namespace   string
	object, old runtime.Object
	options     runtime.Object // how it is asked for
}

func newJudge(t *testing.T, folder, name string) *judge {
	t.Helper()
	for _, m := range manifests(t, folder) {
		if m.Kind != "ValidatingAdmissionPolicy" || m.Name != name {
			continue
		}
		var policy admissionregistrationv1.ValidatingAdmissionPolicy
		decode(t, m, &policy)
		compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
		if err != nil {
			t.Fatal(err)
		}
		declared := cel.OptionalVariableDeclarations{HasParams: policy.Spec.ParamKind != nil, HasAuthorizer: true}
		var variables []cel.NamedExpressionAccessor
		for _, v := range policy.Spec.Variables {
			variables = append(variables, &validating.Variable{Name: v.Name, Expression: v.Expression})
		}
		compiler.CompileAndStoreVariables(variables, declared, environment.NewExpressions)
		var conditions []cel.ExpressionAccessor
		messages := make([]cel.ExpressionAccessor, len(policy.Spec.Validations))
		for i, v := range policy.Spec.Validations {
			conditions = append(conditions, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason})
			if v.MessageExpression != "" {
				messages[i] = &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}
			}
		}
		var matcher matchconditions.Matcher
		if matches := policy.Spec.MatchConditions; len(matches) > 0 {
			var accessors []cel.ExpressionAccessor
			for i := range matches {
				accessors = append(accessors, (*matchconditions.MatchCondition)(&matches[i]))
			}
			matcher = matchconditions.NewMatcher(compiler.CompileCondition(accessors, declared, environment.NewExpressions), policy.Spec.FailurePolicy, "policy", "validate", name)
		}
		j := &judge{Validator: validating.NewValidator(
			compiler.CompileCondition(conditions, declared, environment.NewExpressions), matcher,
			compiler.CompileCondition(nil, declared, environment.NewExpressions),
			compiler.CompileCondition(messages, cel.OptionalVariableDeclarations{HasParams: declared.HasParams}, environment.NewExpressions),
			policy.Spec.FailurePolicy, nil)}
		if declared.HasParams {
			j.params = &corev1.ConfigMap{Data: map[string]string{"image": committer}}
		}
		return j
	}
	t.Fatalf("there is no policy %s", name)
	return nil
}

// create returns what it says of a new object in the server's namespace, empty where it takes it.
func (j *judge) create(t *testing.T, resource, kind string, object runtime.Object) string {
	t.Helper()
	group := map[string]string{"Job": "batch"}[kind]
	return j.say(t, asked{
		who: "admin", operation: admission.Create, namespace: "sandbox-system", object: object,
		resource: schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource},
		kind:     schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind},
	})
}

// connect returns what it says of somebody who connects to a Pod of the server's namespace.
func (j *judge) connect(t *testing.T, who, subresource, kind string, options runtime.Object) string {
	t.Helper()
	return j.say(t, asked{
		who: who, operation: admission.Connect, namespace: "sandbox-system", object: options, subresource: subresource,
		resource: corev1.SchemeGroupVersion.WithResource("pods"), kind: corev1.SchemeGroupVersion.WithKind(kind),
	})
}

// say returns what it says of a request, empty where it takes it.
func (j *judge) say(t *testing.T, of asked) string {
	t.Helper()
	name := "x"
	for _, object := range []runtime.Object{of.old, of.object} {
		if accessor, err := apimeta.Accessor(object); err == nil && accessor.GetName() != "" {
			name = accessor.GetName()
		}
	}
	attributes := &admission.VersionedAttributes{
		Attributes: admission.NewAttributesRecord(of.object, of.old, of.kind, of.namespace, name, of.resource, of.subresource, of.operation, of.options, false, &user.DefaultInfo{Name: of.who}),
	}
	attributes.VersionedKind = of.kind
	attributes.VersionedObject.Set(of.object)
	attributes.VersionedOldObject.Set(of.old)
	rights := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		right := a.GetVerb() + " " + a.GetResource()
		if slices.Contains(of.may, right) || slices.Contains(of.may, right+" "+a.GetName()) {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
	var said []string
	for _, decision := range j.Validate(t.Context(), of.resource, attributes, j.params, nil, celconfig.RuntimeCELCostBudget, rights).Decisions {
		switch decision.Evaluation {
		case validating.EvalDeny:
			said = append(said, decision.Message)
		case validating.EvalError:
			t.Fatalf("it cannot judge: %s", decision.Message)
		case validating.EvalAdmit:
		}
	}
	return strings.Join(said, "; ")
}
