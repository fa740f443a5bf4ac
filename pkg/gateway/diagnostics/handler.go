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

// Package diagnostics tells people what happened to a sandbox: the log of its containers, the events that Kubernetes has of it,
// and how it stands. It reads them as the caller, so whoever may not read a Pod's log does not read it here.
package diagnostics

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

// Handler serves the routes below diagnostics.
type Handler struct{}

const textType = "text/plain; charset=utf-8"

// GetDiagnosticLogs has the end of the log of the sandbox's containers: as text, or within a descriptor where a scope is named.
func (Handler) GetDiagnosticLogs(ctx context.Context, params httpapi.GetDiagnosticLogsParams) (httpapi.GetDiagnosticLogsRes, error) {
	scope, described := params.Scope.Get()
	if err := checkScope(scope, described, logScopes); err != nil {
		return nil, err
	}
	since, err := seconds(params.Since)
	if err != nil {
		return nil, err
	}
	seen, err := look(ctx, params.SandboxId)
	if err != nil {
		return nil, err
	}
	logs, err := seen.logs(ctx, int64(params.Tail.Or(100)), since, scope == scopeAll)
	if err != nil {
		return nil, err
	}
	if !described {
		return &httpapi.DiagnosticTextPlain{Data: strings.NewReader(orNone(logs, "(no logs)"))}, nil
	}
	return descriptor(params.SandboxId, httpapi.DiagnosticKindLogs, scope, logs), nil
}

// GetDiagnosticEvents has the newest events of the sandbox: as text, or within a descriptor where a scope is named.
func (Handler) GetDiagnosticEvents(ctx context.Context, params httpapi.GetDiagnosticEventsParams) (httpapi.GetDiagnosticEventsRes, error) {
	scope, described := params.Scope.Get()
	if err := checkScope(scope, described, eventScopes); err != nil {
		return nil, err
	}
	seen, err := look(ctx, params.SandboxId)
	if err != nil {
		return nil, err
	}
	events, err := seen.events(ctx, int(params.Limit.Or(50)), scope)
	if err != nil {
		return nil, err
	}
	if !described {
		return &httpapi.DiagnosticTextPlain{Data: strings.NewReader(orNone(events, "(no events)"))}, nil
	}
	return descriptor(params.SandboxId, httpapi.DiagnosticKindEvents, scope, events), nil
}

// GetDiagnosticInspect says how the sandbox and its Pod stand.
func (Handler) GetDiagnosticInspect(ctx context.Context, params httpapi.GetDiagnosticInspectParams) (httpapi.Text, error) {
	seen, err := look(ctx, params.SandboxId)
	if err != nil {
		return httpapi.Text{}, err
	}
	return httpapi.Text{Data: strings.NewReader(seen.inspect())}, nil
}

// GetDiagnosticSummary is all of it in one text. What of it the caller may not read is said in its place.
func (Handler) GetDiagnosticSummary(ctx context.Context, params httpapi.GetDiagnosticSummaryParams) (httpapi.Text, error) {
	seen, err := look(ctx, params.SandboxId)
	if err != nil {
		return httpapi.Text{}, err
	}
	var all strings.Builder
	section := func(title string, of text, err error, none string) {
		fmt.Fprintf(&all, "== %s ==\n", title)
		if err != nil {
			fmt.Fprintf(&all, "(%v)\n\n", err)
			return
		}
		fmt.Fprintf(&all, "%s\n", orNone(of, none))
	}
	section("sandbox "+params.SandboxId, text{content: seen.inspect()}, nil, "")
	events, err := seen.events(ctx, int(params.EventLimit.Or(20)), scopeAll)
	section("events", events, err, "(no events)")
	tail := params.Tail.Or(50)
	logs, err := seen.logs(ctx, int64(tail), nil, false)
	section(fmt.Sprintf("log, the last %d lines", tail), logs, err, "(no logs)")
	return httpapi.Text{Data: strings.NewReader(all.String())}, nil
}

// text is what was found, and what is to be said of what was not.
type text struct {
	content   string
	truncated bool
	warnings  []string
}

// orNone is the text for people, with the warnings below it.
func orNone(t text, none string) string {
	content := t.content
	if content == "" {
		content = none + "\n"
	}
	for _, warning := range t.warnings {
		content += "(" + warning + ")\n"
	}
	return content
}

func descriptor(id string, kind httpapi.DiagnosticKind, scope string, t text) *httpapi.Diagnostic {
	return &httpapi.Diagnostic{
		SandboxId:     id,
		Kind:          kind,
		Scope:         scope,
		Delivery:      httpapi.DiagnosticDeliveryInline,
		ContentType:   textType,
		Content:       httpapi.NewOptString(t.content),
		ContentLength: httpapi.NewOptInt64(int64(len(t.content))),
		Truncated:     t.truncated,
		Warnings:      t.warnings,
	}
}

// scene is a sandbox and the Pod that it has, as the caller sees them.
type scene struct {
	caller  *identity.Caller
	sandbox *v1alpha1.Sandbox
	// pod is nil where the sandbox has none, and absent says why; or the caller may not see it, and denied says that.
	pod    *corev1.Pod
	absent string
	denied error
}

// look reads the sandbox, which has to be there, and its Pod.
func look(ctx context.Context, id string) (*scene, error) {
	caller := identity.From(ctx)
	sandbox, err := caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace).Get(ctx, id, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	seen := &scene{caller: caller, sandbox: sandbox}
	if sandbox.Status.PodName == "" {
		seen.absent = fmt.Sprintf("the sandbox is %s and has no Pod, and with a Pod goes its log", sandbox.Status.Phase)
		return seen, nil
	}
	pod, err := caller.Kube.CoreV1().Pods(caller.Namespace).Get(ctx, sandbox.Status.PodName, metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err):
		seen.absent, seen.denied = forbidden(err), err
	case apierrors.IsNotFound(err):
		seen.absent = fmt.Sprintf("Pod %s is not there (the sandbox is %s)", sandbox.Status.PodName, sandbox.Status.Phase)
	case err != nil:
		return nil, err
	case pod.Labels[v1alpha1.LabelSandboxUID] != string(sandbox.UID):
		// It has the name and is somebody else's.
		seen.absent = fmt.Sprintf("Pod %s is not the sandbox's", sandbox.Status.PodName)
	default:
		seen.pod = pod
	}
	return seen, nil
}

// forbidden is what kube-apiserver says of a right that the caller lacks.
func forbidden(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Message
	}
	return err.Error()
}
