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

package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandbox"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/template"
)

// preflightTimeout is well below the 34 seconds after which the API server gives up a request.
const preflightTimeout = 10 * time.Second

// Preflight looks for what a pause would fail for, without beginning one. It needs no leader:
// every replica has its own.
type Preflight struct {
	// OfCluster is what every dry run has to say of the cluster itself; nil, or empty: nothing.
	OfCluster func() string

	own    client.Client
	checks *sandboxsnapshot.Checks
	trial  *sandbox.Trial
}

// NewPreflight makes a Preflight. own serves our objects with the rights of the controllers,
// host reads the cluster of the Pods, and tries Pods there.
func NewPreflight(own, host client.Client, opts Options) (*Preflight, error) {
	images, err := naming.ParseImageTemplate(opts.SnapshotRegistry, opts.SnapshotImageTemplate)
	if err != nil {
		return nil, fmt.Errorf("--snapshot-image-template: %w", err)
	}
	return &Preflight{own: own, checks: &sandboxsnapshot.Checks{
		Host:       host,
		Images:     images,
		PushSecret: client.ObjectKey{Namespace: opts.CommitJobNamespace, Name: opts.SnapshotPushSecret},
		Runtimes:   opts.CommitRuntimes,
	}, trial: &sandbox.Trial{Host: host, Images: images, PullSecret: opts.ResumePullSecret}}, nil
}

// Pause returns everything that the pause would fail for which has just been decided on, with
// the reasons that the Paused condition would have. The warnings are what would not make it fail: what
// its snapshot would not hold, that its resume would be refused, and what nobody knows but the node. An error says what could not be found out.
func (p *Preflight) Pause(ctx context.Context, pausing *v1alpha1.Sandbox) (causes []metav1.StatusCause, warnings []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()

	note := func(reason, message string) {
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseType(reason), Message: message})
	}
	pausing = pausing.DeepCopy()
	unknown := p.readTemplate(ctx, pausing)
	problems, lost, err := p.checks.Problems(ctx, sandbox.Attempt(pausing), pausing)
	for _, problem := range problems {
		note(problem.Reason, problem.Message)
	}
	unknown = errors.Join(unknown, err)
	// Quotas, policies and webhooks answer for themselves.
	switch err := sandbox.CreateAttempt(ctx, p.own, pausing, client.DryRunAll); answer.OfCreate(err) {
	case answer.Done, answer.Ours: // the name is taken: the controller takes the next one
	case answer.Final:
		note(v1alpha1.ReasonSnapshotRejected, answer.Condition(err.Error()))
	default:
		unknown = errors.Join(unknown, err)
	}
	if p.OfCluster != nil {
		if warning := p.OfCluster(); warning != "" {
			warnings = append(warnings, warning)
		}
	}
	if len(causes) == 0 {
		warnings = append(warnings, lost...)
		if why := p.trial.Refusal(ctx, pausing); why != "" {
			warnings = append(warnings, why)
		}
		warnings = append(warnings, nodeAlone)
	}
	return causes, warnings, unknown
}

// nodeAlone is said by every dry run that finds nothing in the way: it starts nothing on the node.
const nodeAlone = "a dry run asks neither the node nor for a push: whether the registry takes what is pushed, whether the node still has what the images are made of, " +
	"and whether there is a file among those of the containers that no image can hold, only the pause finds out, before it freezes anything"

// readTemplate gives a sandbox without a template that of its snapshot, where there is one: it
// names the containers.
func (p *Preflight) readTemplate(ctx context.Context, pausing *v1alpha1.Sandbox) error {
	from, err := template.Read(ctx, p.own, pausing)
	if err != nil && !errors.Is(err, template.ErrNone) && !apierrors.IsNotFound(err) {
		return err
	}
	pausing.Spec.Template = from
	return nil
}
