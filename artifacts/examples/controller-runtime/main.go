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

// controller-runtime pauses or resumes a sandbox with the client of controller-runtime, and waits
// with a watch until it is done. An operator that has a manager watches with its cache instead.
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

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

const usage = `usage: controller-runtime [flags] pause|resume SANDBOX

Pauses or resumes a sandbox and waits until it is Paused or Ready. Ends with 0 when it is, with 1 and a reason when it
cannot be, with 2 when it was called wrongly.
`

func main() {
	// --kubeconfig is a flag of controller-runtime's own.
	namespace := flag.String("namespace", metav1.NamespaceDefault, "namespace of the sandbox")
	timeout := flag.Duration("timeout", 3*time.Minute, "how long to wait")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage, "\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	verb := flag.Arg(0)
	if flag.NArg() != 2 || verb != "pause" && verb != "resume" {
		flag.Usage()
		os.Exit(2)
	}
	ctrl.SetLogger(klog.Background())

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("not done within %s", *timeout))
	defer cancel()
	key := client.ObjectKey{Namespace: *namespace, Name: flag.Arg(1)}
	if err := run(ctx, key, verb, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "controller-runtime: %s sandbox %s: %v\n", verb, key, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, key client.ObjectKey, verb string, out io.Writer) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}

	sandbox := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	var body client.Object = &v1alpha1.SandboxPause{}
	wanted := v1alpha1.DesiredStatePaused
	if verb == "resume" {
		body, wanted = &v1alpha1.SandboxResume{}, v1alpha1.DesiredStateRunning
	}
	// A refusal (409) says what to do.
	if err := c.SubResource(verb).Create(ctx, sandbox, body); err != nil {
		return err
	}
	// The answer was the sandbox, which this client cannot take as a body. A read after it shows
	// no older state.
	if err := c.Get(ctx, key, sandbox); err != nil {
		return err
	}
	return await(ctx, c, sandbox, wanted, out)
}

// await returns when the sandbox has come to what was asked of it. The watch begins at what was
// read, so that nothing is missed.
func await(ctx context.Context, c client.WithWatch, asked *v1alpha1.Sandbox, wanted v1alpha1.SandboxDesiredState, out io.Writer) error {
	last := describe(asked)
	fmt.Fprintln(out, last)
	if done, err := arrived(asked, wanted, asked.Generation); done || err != nil {
		return err
	}
	watcher := &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
		return c.Watch(ctx, &v1alpha1.SandboxList{}, client.InNamespace(asked.Namespace),
			client.MatchingFields{metav1.ObjectNameField: asked.Name}, &client.ListOptions{Raw: &options})
	}}
	// Until begins another watch where one ends before its time.
	_, err := watchtools.Until(ctx, asked.ResourceVersion, watcher, func(event watch.Event) (bool, error) {
		sandbox, ok := event.Object.(*v1alpha1.Sandbox)
		switch {
		case !ok:
			return false, fmt.Errorf("the watch ends with %s: %v", event.Type, event.Object)
		case event.Type == watch.Deleted:
			return false, errors.New("it was deleted")
		}
		if now := describe(sandbox); now != last {
			fmt.Fprintln(out, now)
			last = now
		}
		return arrived(sandbox, wanted, asked.Generation)
	})
	if ctx.Err() != nil {
		return fmt.Errorf("%w; it is %s", context.Cause(ctx), last)
	}
	return err
}

// arrived says whether a sandbox is what was asked of it, and an error where it will not be.
func arrived(sandbox *v1alpha1.Sandbox, wanted v1alpha1.SandboxDesiredState, generation int64) (bool, error) {
	switch {
	case sandbox.Spec.DesiredState != wanted:
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
	if condition == nil || condition.ObservedGeneration < generation {
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
