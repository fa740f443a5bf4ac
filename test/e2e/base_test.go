//go:build e2e

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

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	memory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/cert"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// ownImage makes an image of busybox's files and one of its own, so that nothing of it is shared
// with what other tests run. Its manifest and layer are of Docker's types.
func (r *room) ownImage() v1.Image {
	r.t.Helper()
	ctx := namespaces.WithNamespace(r.t.Context(), "k8s.io")
	original, err := r.containerd.GetImage(ctx, busybox)
	if err != nil {
		r.t.Fatal(err)
	}
	manifest, err := images.Manifest(ctx, original.ContentStore(), original.Target(), original.Platform())
	if err != nil {
		r.t.Fatal(err)
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	for _, d := range manifest.Layers {
		blob, err := content.ReadBlob(ctx, original.ContentStore(), d)
		if err != nil {
			r.t.Fatal(err)
		}
		plain, err := compression.DecompressStream(bytes.NewReader(blob))
		if err != nil {
			r.t.Fatal(err)
		}
		for layer := tar.NewReader(plain); ; {
			h, err := layer.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				err = w.WriteHeader(h)
			}
			if err == nil {
				_, err = io.Copy(w, layer)
			}
			if err != nil {
				r.t.Fatal(err)
			}
		}
	}
	own := "only in " + r.namespace
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "own", Mode: 0o644, Size: int64(len(own))}); err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.WriteString(w, own); err != nil {
		r.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		r.t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		r.t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		r.t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		r.t.Fatal(err)
	}
	spec, err := original.Spec(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	config.OS, config.Architecture, config.Variant, config.OSVersion = spec.OS, spec.Architecture, spec.Variant, "12.34"
	config.Config.Env = []string{"OWN=yes", "PATH=/bin:/sbin:/usr/bin:/usr/sbin"}
	config.Config.Labels = map[string]string{"of": r.namespace}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		r.t.Fatal(err)
	}
	return image
}

// load puts an image on the node under a name, unpacked, and takes the bytes of its layers away
// again, as containerd does with discard_unpacked_layers.
func (r *room) load(reference string, image v1.Image) {
	r.t.Helper()
	ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
	tag, err := name.NewTag(reference)
	if err != nil {
		r.t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, image, &archive); err != nil {
		r.t.Fatal(err)
	}
	imported, err := r.containerd.Import(ctx, &archive)
	if err != nil || len(imported) != 1 {
		r.t.Fatalf("import image %s: %v, %v", reference, imported, err)
	}
	r.t.Cleanup(func() {
		if err := r.containerd.ImageService().Delete(ctx, imported[0].Name); err != nil && !errdefs.IsNotFound(err) {
			r.t.Errorf("delete image %s: %v", imported[0].Name, err)
		}
	})
	if imported[0].Name != reference {
		r.t.Fatalf("the image was imported as %s, want %s", imported[0].Name, reference)
	}
	loaded := containerd.NewImage(r.containerd, imported[0])
	if err := loaded.Unpack(ctx, "overlayfs"); err != nil {
		r.t.Fatalf("unpack image %s: %v", reference, err)
	}
	manifest, err := images.Manifest(ctx, loaded.ContentStore(), loaded.Target(), loaded.Platform())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, d := range manifest.Layers {
		if err := r.containerd.ContentStore().Delete(ctx, d.Digest); err != nil {
			r.t.Fatalf("delete layer %s: %v", d.Digest, err)
		}
	}
}

// from makes a sandbox run an image that is on the node already.
func from(image string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) { s.Spec.Template.Spec.Containers[0].Image = image }
}

// mustKeepBase pauses and resumes a sandbox of an own image, checks that nothing is missing and
// that the configuration is the base's, and returns the image's lowest layer.
func (r *room) mustKeepBase(sandbox string, base v1.Image) v1.Hash {
	r.t.Helper()
	r.sh(sandbox, "echo written > /root/file && rm /bin/vi")
	before := r.sh(sandbox, inventory)
	r.pause(sandbox)
	_, snapshot := r.awaitPaused(sandbox)
	saved := snapshot.Status.Containers[0]
	r.mustBeInRegistry(saved)
	r.resume(sandbox)
	r.awaitReady(sandbox)
	if after := r.sh(sandbox, inventory); after != before {
		r.t.Errorf("the files differ from those before the pause:\n%s", difference(before, after))
	}
	if got, want := r.sh(sandbox, "cat /own /root/file; echo $OWN"), "only in "+r.namespace+"written\nyes\n"; got != want {
		r.t.Errorf("after resume there is %q, want %q", got, want)
	}
	image := r.image(saved)
	manifest, err := image.Manifest()
	if err != nil {
		r.t.Fatal(err)
	}
	if manifest.MediaType != types.OCIManifestSchema1 || !strings.HasPrefix(string(manifest.Layers[0].MediaType), "application/vnd.oci.") {
		r.t.Errorf("the manifest is of type %s, its lowest layer of type %s", manifest.MediaType, manifest.Layers[0].MediaType)
	}
	was, err := base.ConfigFile()
	if err != nil {
		r.t.Fatal(err)
	}
	is, err := image.ConfigFile()
	if err != nil {
		r.t.Fatal(err)
	}
	if is.Architecture != was.Architecture || is.Variant != was.Variant || is.OSVersion != was.OSVersion || fmt.Sprint(is.Config) != fmt.Sprint(was.Config) ||
		len(is.History) != len(was.History)+1 || len(is.RootFS.DiffIDs) != len(was.RootFS.DiffIDs)+1 {
		r.t.Errorf("the configuration is %+v, the base's was %+v", is, was)
	}
	return manifest.Layers[0].Digest
}

// TestABaseThatIsOnlyUnpacked has an image that no registry has, and whose layer's bytes the node
// has not kept.
func TestABaseThatIsOnlyUnpacked(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	image := r.ownImage()
	reference := "127.0.0.1:1/nowhere/base:" + r.namespace
	r.load(reference, image)
	r.start("demo", from(reference))
	made := r.mustKeepBase("demo", image)
	if layers, err := image.Layers(); err == nil {
		if original, err := layers[0].Digest(); err == nil && made == original {
			t.Error("the layer is the original: was it not gone?")
		}
	}
}

// TestABaseOfAPrivateRegistry has an image of a registry that wants credentials, and whose layer's
// bytes the node has not kept: they come with the Pod's pull secret.
func TestABaseOfAPrivateRegistry(t *testing.T) {
	c := theCluster(t)
	host, _, err := net.SplitHostPort(c.registry)
	if err != nil {
		t.Fatal(err)
	}
	base := newPrivateRegistry(t, host)
	const bundle = "e2e-ca"
	if _, err := c.kube.CoreV1().ConfigMaps(systemNamespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: bundle}, Data: map[string]string{"ca.crt": string(base.ca)},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.kube.CoreV1().ConfigMaps(systemNamespace).Delete(context.Background(), bundle, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	c.allowServerToRead(t, "configmaps", bundle)
	c.withServerArgs(t, "--snapshot-registry-ca="+bundle)

	r := newRoom(t)
	image := r.ownImage()
	reference := base.host + "/private/base:" + r.namespace
	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image, remote.WithAuth(base.credentials()), remote.WithTransport(base.transport)); err != nil {
		t.Fatal(err)
	}
	r.load(reference, image)
	const secret = "base-pull"
	r.createSecret(r.namespace, secret, corev1.SecretTypeDockerConfigJson, map[string][]byte{
		corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"username":%q,"password":%q}}}`, base.host, base.username, base.password),
	})
	// The service account's pull secret is the Pod's, too.
	account, err := r.kube.CoreV1().ServiceAccounts(r.namespace).Get(t.Context(), "default", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	account.ImagePullSecrets = append(account.ImagePullSecrets, corev1.LocalObjectReference{Name: secret})
	if _, err := r.kube.CoreV1().ServiceAccounts(r.namespace).Update(t.Context(), account, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.allowServerToReadPullSecret(secret)
	// Whoever gives it to Pods has the accounts by a watch.
	eventually(t, "a Pod gets the service account's pull secret", patience, func(ctx context.Context) (bool, string) {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-"}, Spec: newSandbox("probe").Spec.Template.Spec}
		pod, err := r.kube.CoreV1().Pods(r.namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && slices.Contains(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: secret}), fmt.Sprint(err)
	})

	r.start("demo", from(reference))
	base.served.Store(0)
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	original, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got := r.mustKeepBase("demo", image); got != original {
		t.Errorf("the lowest layer is %s, the base's was %s", got, original)
	}
	if base.served.Load() == 0 {
		t.Error("the base's registry was never asked with the right password")
	}
	handed, err := r.kube.CoreV1().Secrets(systemNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: v1alpha1.LabelSandbox + "=demo"})
	if err != nil {
		t.Fatal(err)
	}
	mine := 0
	for i := range handed.Items {
		if owner := metav1.GetControllerOf(&handed.Items[i]); owner == nil || owner.Kind != "Job" {
			t.Errorf("Secret %s does not go with its Job", handed.Items[i].Name)
		}
		mine++
	}
	if mine == 0 {
		t.Error("no Secret was handed to the commit Job")
	}
	for i := range handed.Items {
		r.mustGoWithItsJob(&handed.Items[i])
	}
}

// mustGoWithItsJob removes the Job that a Secret was handed to, as its time to live does after five minutes, and watches
// the garbage collector remove the Secret.
func (r *room) mustGoWithItsJob(secret *corev1.Secret) {
	r.t.Helper()
	owner := metav1.GetControllerOf(secret)
	if owner == nil {
		return // said already
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	watcher, err := r.kube.CoreV1().Secrets(secret.Namespace).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, secret.Name).String(), ResourceVersion: secret.ResourceVersion,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	defer watcher.Stop()
	background := metav1.DeletePropagationBackground
	if err := r.kube.BatchV1().Jobs(secret.Namespace).Delete(ctx, owner.Name, metav1.DeleteOptions{
		PropagationPolicy: &background, Preconditions: metav1.NewUIDPreconditions(string(owner.UID)),
	}); err != nil {
		r.t.Fatalf("delete Job %s: %v", owner.Name, err)
	}
	for event := range watcher.ResultChan() {
		switch event.Type {
		case watch.Deleted:
			return
		case watch.Error:
			r.t.Fatalf("watching Secret %s: %v", secret.Name, apierrors.FromObject(event.Object))
		}
	}
	r.t.Errorf("Secret %s outlives its Job", secret.Name)
}

// allowServerToReadPullSecret is artifacts/examples/pull-secret-reader.yaml for the room.
func (r *room) allowServerToReadPullSecret(secret string) {
	r.t.Helper()
	r.grantTo(serverSubject, serverUser, "sandbox-pull-secret-reader", rbacv1.PolicyRule{
		APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{secret}, Verbs: []string{"get"},
	})
}

// privateRegistry speaks TLS and wants a password.
type privateRegistry struct {
	host               string
	username, password string
	ca                 []byte
	transport          http.RoundTripper
	served             atomic.Int64 // requests with the right password
}

func (p *privateRegistry) credentials() authn.Authenticator {
	return authn.FromConfig(authn.AuthConfig{Username: p.username, Password: p.password})
}

// newPrivateRegistry serves at an address that Pods reach.
func newPrivateRegistry(t *testing.T, address string) *privateRegistry {
	t.Helper()
	p := &privateRegistry{username: "base", password: digest.FromString(t.Name()).Encoded()}
	certificate, key, err := cert.GenerateSelfSignedCertKey(address, []net.IP{net.ParseIP(address)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	inner := memory.New(memory.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if user, password, _ := req.BasicAuth(); user != p.username || password != p.password {
			w.Header().Set("WWW-Authenticate", `Basic realm="base"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		p.served.Add(1)
		inner.ServeHTTP(w, req)
	}))
	_ = server.Listener.Close()
	if server.Listener, err = net.Listen("tcp", net.JoinHostPort(address, "0")); err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	p.host, p.ca = server.Listener.Addr().String(), certificate
	p.transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // of this very process
	return p
}
