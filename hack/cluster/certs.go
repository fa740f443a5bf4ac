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
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority signs certificates of one cluster.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// identity is what a certificate says of its holder.
type identity struct {
	file  string // written as <file>.crt and <file>.key
	name  string
	group string
	hosts []string // names and addresses; a certificate with hosts is for serving, one without for a client
}

func writePKI(l layout) error {
	ca, err := newAuthority(l, "ca", "sandbox-local-cluster")
	if err != nil {
		return err
	}
	frontProxy, err := newAuthority(l, "front-proxy-ca", "sandbox-local-cluster-front-proxy")
	if err != nil {
		return err
	}
	for _, id := range []identity{
		{file: "kube-apiserver", name: "kube-apiserver", hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", bridgeIP, serviceIP}},
		{file: "loopback", name: "localhost", hosts: []string{"localhost", "127.0.0.1"}},
		{file: "admin", name: "admin", group: "system:masters"},
		{file: "kubelet-client", name: "kube-apiserver-kubelet-client", group: "system:masters"},
		{file: "kube-controller-manager", name: "system:kube-controller-manager"},
		{file: "kube-scheduler", name: "system:kube-scheduler"},
		{file: "kube-proxy", name: "system:kube-proxy"},
	} {
		if err := ca.issue(l, id); err != nil {
			return err
		}
	}
	if err := frontProxy.issue(l, identity{file: "front-proxy-client", name: "front-proxy-client"}); err != nil {
		return err
	}
	if err := ca.issueNode(l, firstNode); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return writeKey(l.pki("service-account.key"), key)
}

// writeNodePKI issues the certificates of a node that comes later.
func writeNodePKI(l layout, n node) error {
	pair, err := tls.LoadX509KeyPair(l.pki("ca.crt"), l.pki("ca.key"))
	if err != nil {
		return err
	}
	return authority{cert: pair.Leaf, key: pair.PrivateKey.(crypto.Signer)}.issueNode(l, n)
}

func (a authority) issueNode(l layout, n node) error {
	user := "system:node:" + n.name()
	if err := a.issue(l, identity{file: n.pki("kubelet-serving"), name: user, group: "system:nodes", hosts: []string{n.name(), n.ip()}}); err != nil {
		return err
	}
	return a.issue(l, identity{file: n.pki("kubelet"), name: user, group: "system:nodes"})
}

func newAuthority(l layout, file, name string) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template, err := newTemplate(identity{name: name})
	if err != nil {
		return authority{}, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature, nil
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, err
	}
	return authority{cert: cert, key: key}, writePair(l, file, der, key)
}

func (a authority) issue(l layout, id identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template, err := newTemplate(id)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("issue the certificate %s: %w", id.file, err)
	}
	return writePair(l, id.file, der, key)
}

func newTemplate(id identity) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id.name},
		NotBefore:    now.Add(-time.Hour), // a clock that is set back a little must not break the cluster
		NotAfter:     now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if id.group != "" {
		template.Subject.Organization = []string{id.group}
	}
	for _, host := range id.hosts {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return template, nil
}

func writePair(l layout, file string, der []byte, key *ecdsa.PrivateKey) error {
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := writeFile(l.pki(file+".crt"), cert, 0o644); err != nil {
		return err
	}
	return writeKey(l.pki(file+".key"), key)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key) // kube-apiserver reads a PKCS #8 key for serving, but not for service accounts
	if err != nil {
		return err
	}
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// writeKubeconfig makes a file that works wherever it is copied to: certificates are in it, not beside it.
func writeKubeconfig(l layout, path, id string) error {
	var encoded [3]string
	for i, file := range []string{"ca.crt", id + ".crt", id + ".key"} {
		content, err := os.ReadFile(l.pki(file))
		if err != nil {
			return err
		}
		encoded[i] = base64.StdEncoding.EncodeToString(content)
	}
	return writeFile(path, []byte(fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: local
clusters:
- name: local
  cluster:
    server: https://%s
    certificate-authority-data: %s
users:
- name: %s
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: local
  context: {cluster: local, user: %s}
`, apiServer, encoded[0], id, encoded[1], encoded[2], id)), 0o600)
}
