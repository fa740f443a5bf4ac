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

// clientset pauses or resumes a sandbox with the generated clientset, and waits with an informer
// until it is done: it says what is going on, and never asks twice.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	"github.com/opensandbox-io/sandbox-apiserver/generated/informers/externalversions"
)

const usage = `usage: clientset [flags] pause|resume SANDBOX

Pauses or resumes a sandbox and waits until it is Paused or Ready. Ends with 0 when it is, with 1 and a reason when it
cannot be, with 2 when it was called wrongly.
`

func main() {
	flags := flag.NewFlagSet("clientset", flag.ExitOnError)
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	overrides := &clientcmd.ConfigOverrides{}
	flags.StringVar(&rules.ExplicitPath, "kubeconfig", "", "the cluster (default $KUBECONFIG, ~/.kube/config, or the Pod's own account)")
	flags.StringVar(&overrides.Context.Namespace, "namespace", "", "namespace of the sandbox (default that of the kubeconfig)")
	timeout := flags.Duration("timeout", 3*time.Minute, "how long to wait")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage, "\n")
		flags.PrintDefaults()
	}
	_ = flags.Parse(os.Args[1:]) // ends the program where it fails
	verb, name := flags.Arg(0), flags.Arg(1)
	if flags.NArg() != 2 || verb != "pause" && verb != "resume" {
		flags.Usage()
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("not done within %s", *timeout))
	defer cancel()
	if err := run(ctx, clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides), verb, name, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "clientset: %s sandbox %s: %v\n", verb, name, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig clientcmd.ClientConfig, verb, name string, out io.Writer) error {
	config, err := kubeconfig.ClientConfig()
	if err != nil {
		return err
	}
	namespace, _, err := kubeconfig.Namespace()
	if err != nil {
		return err
	}
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return err
	}

	// The answer is the sandbox as it stands now; a refusal (409) says what to do.
	sandboxes := client.LifecycleV1alpha1().Sandboxes(namespace)
	var asked *v1alpha1.Sandbox
	if verb == "pause" {
		asked, err = sandboxes.Pause(ctx, name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	} else {
		asked, err = sandboxes.Resume(ctx, name, &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	return await(ctx, client, asked, out)
}

// await returns when the sandbox has come to what was asked of it.
func await(ctx context.Context, client versioned.Interface, asked *v1alpha1.Sandbox, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	factory := externalversions.NewSharedInformerFactoryWithOptions(client, 0,
		externalversions.WithNamespace(asked.Namespace),
		externalversions.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, asked.Name).String()
		}))
	defer factory.Shutdown()
	defer cancel()

	states, problems := make(chan *v1alpha1.Sandbox), make(chan error)
	tell := func(object any) {
		select {
		case states <- object.(*v1alpha1.Sandbox):
		case <-ctx.Done():
		}
	}
	complain := func(err error) {
		select {
		case problems <- err:
		case <-ctx.Done():
		}
	}
	informer := factory.Lifecycle().V1alpha1().Sandboxes().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    tell,
		UpdateFunc: func(_, object any) { tell(object) },
		DeleteFunc: func(any) { complain(errors.New("it was deleted")) },
	}); err != nil {
		return err
	}
	if err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
			complain(err) // trying again would not help
		}
		cache.DefaultWatchErrorHandler(ctx, r, err)
	}); err != nil {
		return err
	}
	factory.StartWithContext(ctx)

	last := ""
	for {
		select {
		case sandbox := <-states:
			if now := describe(sandbox); now != last {
				fmt.Fprintln(out, now)
				last = now
			}
			if done, err := arrived(sandbox, asked); done || err != nil {
				return err
			}
		case err := <-problems:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%w; it is %s", context.Cause(ctx), last)
		}
	}
}

// arrived says whether a sandbox is what was asked of it, and an error where it will not be.
func arrived(sandbox, asked *v1alpha1.Sandbox) (bool, error) {
	switch {
	case sandbox.UID != asked.UID:
		return false, errors.New("it was deleted and created anew")
	case sandbox.Generation < asked.Generation, sandbox.Status.LastRequestTime.Before(asked.Status.LastRequestTime):
		return false, nil // from before the request
	case sandbox.Spec.DesiredState != asked.Spec.DesiredState:
		return false, fmt.Errorf("somebody has asked for %s meanwhile", sandbox.Spec.DesiredState)
	case sandbox.Status.Phase == v1alpha1.SandboxFailed:
		return false, errors.New(describe(sandbox))
	}
	// The phase is for people, the condition is the contract. That of an older generation of the
	// spec says nothing about what was asked.
	condition := meta.FindStatusCondition(sandbox.Status.Conditions, conditionOf(sandbox))
	if condition != nil && condition.Reason == v1alpha1.ReasonFilesLost && sandbox.Status.Phase == v1alpha1.SandboxRunning {
		return false, errors.New(describe(sandbox)) // it waits for somebody's word, which the caller's next pause is
	}
	if condition == nil || condition.ObservedGeneration < asked.Generation {
		return false, nil
	}
	if condition.Reason == v1alpha1.ReasonNeverRan {
		return false, errors.New(describe(sandbox)) // there is nothing to save, and there never will be
	}
	return condition.Status == metav1.ConditionTrue, nil
}

func conditionOf(sandbox *v1alpha1.Sandbox) string {
	if sandbox.Spec.DesiredState == v1alpha1.DesiredStatePaused {
		return v1alpha1.ConditionPaused
	}
	return v1alpha1.ConditionReady
}

func describe(sandbox *v1alpha1.Sandbox) string {
	if condition := meta.FindStatusCondition(sandbox.Status.Conditions, conditionOf(sandbox)); condition != nil {
		return fmt.Sprintf("%s (%s): %s", sandbox.Status.Phase, condition.Reason, condition.Message)
	}
	return string(sandbox.Status.Phase)
}
