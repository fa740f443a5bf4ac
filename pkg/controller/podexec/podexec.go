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

// Package podexec runs programs in containers through the kube-apiserver, as kubectl exec does, and reads
// their logs.
package podexec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
)

// maxOutput is how much of each stream is kept, in bytes.
const maxOutput = 16 << 10

// Client runs programs in the containers of one cluster.
type Client struct {
	config *rest.Config
	core   typedcorev1.CoreV1Interface
}

// New returns a Client for the cluster of config, whose limits count for it.
func New(config *rest.Config) (*Client, error) {
	core, err := typedcorev1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the kube-apiserver: %w", err)
	}
	return &Client{config: config, core: core}, nil
}

// Exec runs a program and returns what it has written, of each stream at most 16 KiB, and an error
// where it did not run, or ended badly, or ctx ended before it. Of one that goes on then nothing more
// is heard.
func (c *Client) Exec(ctx context.Context, pod types.NamespacedName, container string, command []string) (stdout, stderr string, err error) {
	executor, err := c.executor(c.core.RESTClient().Post().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL())
	if err != nil {
		return "", "", fmt.Errorf("exec in container %s of Pod %s: %w", container, pod, err)
	}
	var out, log output
	ended := make(chan error, 1)
	go func() {
		// It does not look at ctx while it waits for the answer to an upgrade.
		ended <- stream(ctx, executor, remotecommand.StreamOptions{Stdout: &out, Stderr: &log})
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if deadline, ok := ctx.Deadline(); err != nil && ok && !time.Now().Before(deadline) {
		<-ctx.Done() // the connection has the same deadline, and may have been first
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("exec in container %s of Pod %s: %w", container, pod, err)
	}
	return out.String(), log.String(), err
}

// Log returns the end of a container's log, at most that many of the lines that the kubelet's file has and
// at most so many bytes.
func (c *Client) Log(ctx context.Context, pod types.NamespacedName, container string, lines, most int64) ([]byte, error) {
	log, err := c.core.Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container, TailLines: &lines, LimitBytes: &most}).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the log of container %s of Pod %s: %w", container, pod, err)
	}
	return log, nil
}

// executor is that of kubectl, but that what the API server has refused is not asked for twice.
func (c *Client) executor(url *url.URL) (remotecommand.Executor, error) {
	websocket, err := remotecommand.NewWebSocketExecutor(c.config, "GET", url.String())
	if err != nil {
		return nil, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(c.config, "POST", url)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		return (httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)) && !refused(err)
	})
}

// refused says whether an API server has answered, and not somebody on the way to it.
func refused(err error) bool {
	var failure *httpstream.UpgradeFailureError
	if !errors.As(err, &failure) {
		return false
	}
	return apierrors.IsForbidden(failure.Cause) || apierrors.IsNotFound(failure.Cause) || apierrors.IsUnauthorized(failure.Cause)
}

// stream makes an error of a panic, and is silent: the executors log as errors that a connection
// which they have closed is closed.
func stream(ctx context.Context, executor remotecommand.Executor, streams remotecommand.StreamOptions) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return executor.StreamWithContext(klog.NewContext(ctx, klog.Logger{}), streams)
}

// output keeps the beginning of what is written to it. It may be read while it is written to.
type output struct {
	mutex sync.Mutex
	kept  bytes.Buffer
}

func (o *output) Write(data []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.kept.Write(data[:min(len(data), maxOutput-o.kept.Len())])
	return len(data), nil
}

func (o *output) String() string {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.kept.String()
}
