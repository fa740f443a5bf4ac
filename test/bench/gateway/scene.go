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

package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	lifecycle "github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned/typed/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/test/bench/inpod"
)

const (
	namespace = "bench-gateway"
	// image is on the node of the local cluster already.
	image = "docker.io/library/busybox:local"
	// running is the sandbox that is reached, pausing those that are paused again and again: the watch of the gateway has
	// to have seen the last one before the next of the same, as it has of people's.
	running = "running"
	pausing = 25
	// execdPort is where execd listens in a sandbox.
	execdPort = 44772
	// waiting bounds a wait for the cluster, cleaningUp what is done after the deadline.
	waiting, cleaningUp = 2 * time.Minute, 2 * time.Minute
)

// scene is the local cluster, a gateway before it, and the sandboxes that are measured.
type scene struct {
	o          options
	kubeconfig string
	config     *rest.Config
	kube       kubernetes.Interface
	sandbox    versioned.Interface

	gateway *exec.Cmd
	// url is where the gateway serves, and key what it asks for; pod is where execd is without it.
	url, key, pod string
}

// connect finds the cluster by the variables of its cluster.env.
func connect(o options) (*scene, error) {
	s := &scene{o: o, kubeconfig: os.Getenv("KUBECONFIG"), key: rand.Text()}
	if s.kubeconfig == "" {
		return nil, errors.New("KUBECONFIG is not set: run this with `make bench-gateway`")
	}
	var err error
	if s.config, err = clientcmd.BuildConfigFromFlags("", s.kubeconfig); err != nil {
		return nil, fmt.Errorf("KUBECONFIG: %w", err)
	}
	s.config.QPS = -1
	if s.kube, err = kubernetes.NewForConfig(s.config); err != nil {
		return nil, err
	}
	s.sandbox, err = versioned.NewForConfig(s.config)
	return s, err
}

func (s *scene) sandboxes() lifecycle.SandboxInterface {
	return s.sandbox.LifecycleV1alpha1().Sandboxes(namespace)
}

// enter makes the bench's namespace, its sandboxes and a gateway; leave ends and deletes it all.
func (s *scene) enter(ctx context.Context) (leave func(), err error) {
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := s.kube.CoreV1().Namespaces().Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("make namespace %s (one that an earlier run left behind can be deleted): %w", namespace, err)
	}
	leave = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleaningUp)
		defer cancel()
		if err := s.leave(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "gateway:", err)
		}
	}
	for _, prepare := range []func(context.Context) error{s.makeSandboxes, s.startGateway} {
		if err := prepare(ctx); err != nil {
			leave()
			return nil, err
		}
	}
	return leave, nil
}

func (s *scene) leave(ctx context.Context) error {
	if s.gateway != nil {
		_ = s.gateway.Process.Signal(syscall.SIGTERM)
		_ = s.gateway.Wait()
	}
	if err := s.kube.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", namespace, err)
	}
	return until(ctx, "namespace "+namespace+" is gone", func(ctx context.Context) error {
		_, err := s.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	})
}

// makeSandboxes makes one that runs execd with a large file, and others that are paused.
func (s *scene) makeSandboxes(ctx context.Context) error {
	bin, err := filepath.Abs(s.o.bin)
	if err != nil {
		return err
	}
	template := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To[int64](1),
		Containers: []corev1.Container{{
			Name: "main", Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
			Command:      []string{"/opt/bin/execd", "run", "--", "sleep", "infinity"},
			VolumeMounts: []corev1.VolumeMount{{Name: "bin", MountPath: "/opt/bin", ReadOnly: true}},
		}},
		// The node of the local cluster is this machine.
		Volumes: []corev1.Volume{{Name: "bin", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: bin, Type: ptr.To(corev1.HostPathDirectory)}}}},
	}}
	if err := until(ctx, "the namespace's service account is there", func(ctx context.Context) error {
		_, err := s.kube.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	}); err != nil {
		return err
	}
	for _, name := range []string{running, "saved"} {
		object := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.SandboxSpec{Template: template}}
		if _, err := s.sandboxes().Create(ctx, object, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create sandbox %s: %w", name, err)
		}
	}
	if err := s.await(ctx, running, v1alpha1.SandboxRunning); err != nil {
		return err
	}
	if err := s.await(ctx, "saved", v1alpha1.SandboxRunning); err != nil {
		return err
	}
	if _, err := s.sandboxes().Pause(ctx, "saved", &v1alpha1.SandboxPause{}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("pause sandbox saved: %w", err)
	}
	if err := inpod.Exec(ctx, s.kube, s.config, namespace, running, fmt.Sprintf("truncate -s %dM /large", s.o.megabytes)); err != nil {
		return fmt.Errorf("make a file of %d MiB: %w", s.o.megabytes, err)
	}
	if err := s.await(ctx, "saved", v1alpha1.SandboxPaused); err != nil {
		return err
	}
	saved, err := s.sandboxes().Get(ctx, "saved", metav1.GetOptions{})
	if err != nil {
		return err
	}
	for i := range pausing {
		object := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Name: paused(i)}, Spec: v1alpha1.SandboxSpec{
			DesiredState: v1alpha1.DesiredStatePaused, Template: template, RestoreFrom: &v1alpha1.SandboxRestoreSource{SnapshotName: saved.Status.SnapshotName},
		}}
		if _, err := s.sandboxes().Create(ctx, object, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create sandbox %s: %w", object.Name, err)
		}
	}
	for i := range pausing {
		if err := s.await(ctx, paused(i), v1alpha1.SandboxPaused); err != nil {
			return err
		}
	}
	sandbox, err := s.sandboxes().Get(ctx, running, metav1.GetOptions{})
	if err != nil {
		return err
	}
	s.pod = "http://" + net.JoinHostPort(sandbox.Status.PodIP, fmt.Sprint(execdPort))
	return nil
}

func paused(i int) string { return fmt.Sprintf("paused-%d", i) }

func (s *scene) await(ctx context.Context, name string, phase v1alpha1.SandboxPhase) error {
	return until(ctx, fmt.Sprintf("sandbox %s is %s", name, phase), func(ctx context.Context) error {
		sandbox, err := s.sandboxes().Get(ctx, name, metav1.GetOptions{})
		if err == nil && sandbox.Status.Phase != phase {
			err = fmt.Errorf("it is %s: %+v", sandbox.Status.Phase, sandbox.Status.Conditions)
		}
		return err
	})
}

// startGateway starts the one of this checkout, as the administrator of the cluster, with a key for this namespace.
func (s *scene) startGateway(ctx context.Context) error {
	entry := fmt.Sprintf(`{"sha256": "%x", "user": "bench", "groups": ["system:masters"], "namespace": %q}`, sha256.Sum256([]byte(s.key)), namespace)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "keys"}, StringData: map[string]string{"bench": entry}}
	if _, err := s.kube.CoreV1().Secrets(namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make the Secret of the keys: %w", err)
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	metrics, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.o.bin, "bench-gateway.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	//nolint:noctx // it is ended by leave, gracefully, and not by a context
	gateway := exec.Command(filepath.Join(s.o.bin, "lifecycle-gateway"), "--kubeconfig="+s.kubeconfig, "--listen="+address, "--metrics-listen="+metrics,
		"--keys-secret="+namespace+"/keys", "--route-key-secret="+namespace+"/route-key", "--shutdown-delay=0s")
	gateway.Stdout, gateway.Stderr = log, log
	gateway.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := gateway.Start(); err != nil {
		return fmt.Errorf("start the gateway: %w", err)
	}
	s.gateway, s.url = gateway, "http://"+address
	err = until(ctx, "the gateway is ready", func(ctx context.Context) error {
		if err := s.gateway.Process.Signal(syscall.Signal(0)); err != nil {
			return err
		}
		return s.ping(ctx, http.DefaultClient, s.through("/ping"))
	})
	if err != nil {
		return fmt.Errorf("%w; its log is %s", err, log.Name())
	}
	return nil
}

// through is a path of execd's through the gateway.
func (s *scene) through(path string) string {
	return fmt.Sprintf("%s/v1/sandboxes/%s/proxy/%d%s", s.url, running, execdPort, path)
}

// ping asks execd for nothing.
func (s *scene) ping(ctx context.Context, client *http.Client, url string) error {
	return s.get(ctx, client, url, io.Discard)
}

func (s *scene) get(ctx context.Context, client *http.Client, url string, to io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("OPEN-SANDBOX-API-KEY", s.key)
	return answered(client, request, http.StatusOK, to)
}

func answered(client *http.Client, request *http.Request, status int, to io.Writer) error {
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != status {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return fmt.Errorf("%s %s: %s: %s", request.Method, request.URL, response.Status, strings.TrimSpace(string(body)))
	}
	_, err = io.Copy(to, response.Body)
	return err
}

func freeAddress(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// until waits until a check succeeds.
func until(ctx context.Context, what string, check func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, waiting, true, func(ctx context.Context) (bool, error) {
		last = check(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("waiting until %s: %w: %w", what, err, last)
	}
	return nil
}
