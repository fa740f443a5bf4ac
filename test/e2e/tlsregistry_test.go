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
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	memory "github.com/google/go-containerregistry/pkg/registry"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestARegistryWithACertificate shows that nothing is pushed without TLS unless the server was told so, and that a
// certificate of one's own is trusted by --snapshot-registry-ca.
func TestARegistryWithACertificate(t *testing.T) {
	c := theCluster(t)
	// Left when the server has its flags back: before, the deletion of a snapshot would wait for the registry.
	r := newRoom(t)
	// The local cluster's registry has no TLS.
	c.withServerArgs(t, "--snapshot-registry-insecure=")
	before := r.start("demo")
	r.pause("demo")
	failed := r.awaitReason("demo", v1alpha1.ConditionPaused, v1alpha1.ReasonRegistryUnavailable)
	if message := messageOf(failed.Status.Conditions, v1alpha1.ConditionPaused); failed.Status.PodUID != before.Status.PodUID || !strings.Contains(message, "HTTP") {
		t.Errorf("the sandbox is %s", describe(failed))
	}
	r.mustNotBeFrozen()

	registry, authority := startTLSRegistry(t)
	const name = "e2e-registry-ca"
	c.allowServerToRead(t, "configmaps", name)
	if _, err := c.kube.CoreV1().ConfigMaps(systemNamespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"ca.crt": string(authority)},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.kube.CoreV1().ConfigMaps(systemNamespace).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	c.withServerArgs(t, "--snapshot-registry="+registry+"/sandboxes", "--snapshot-registry-ca="+name)
	t.Run("an authority of one's own is trusted", func(t *testing.T) {
		r := newRoom(t)
		r.start("demo")
		r.sh("demo", "echo kept > /root/file")
		r.pause("demo")
		_, snapshot := r.awaitPaused("demo")
		if image := snapshot.Status.Containers[0].ImageURI; !strings.HasPrefix(image, registry+"/") {
			t.Errorf("the image is %s, want it in %s", image, registry)
		}
		r.resume("demo")
		r.awaitReady("demo")
		if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
			t.Errorf("after resume the file holds %q", got)
		}
	})
}

// startTLSRegistry serves a registry with a certificate of an authority of its own, which the node's containerd is told
// about as its administrator would do it.
func startTLSRegistry(t *testing.T) (address string, authority []byte) {
	t.Helper()
	ip := os.Getenv("BRIDGE_IP")
	certificate, authority := selfSigned(t, ip)
	listener, err := tls.Listen("tcp", net.JoinHostPort(ip, "0"), &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: memory.New(memory.Logger(log.New(io.Discard, "", 0))), ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })

	address = listener.Addr().String()
	hosts := filepath.Join(os.Getenv("CLUSTER_DIR"), "config", "hosts", address)
	if err := os.MkdirAll(hosts, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(hosts) })
	config := fmt.Sprintf("server = \"https://%[1]s\"\n\n[host.\"https://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %[2]q\n", address, hosts+"/ca.crt")
	for name, content := range map[string]string{"hosts.toml": config, "ca.crt": string(authority)} {
		if err := os.WriteFile(filepath.Join(hosts, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return address, authority
}

// selfSigned is a certificate for an address, which is its own authority.
func selfSigned(t *testing.T, ip string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e registry"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(ip)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
