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
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// pki is what the kube-apiserver is started with, as files.
type pki struct {
	// dir holds server.crt, server.key, front-proxy-ca.crt, front-proxy.crt, front-proxy.key,
	// service-accounts.key and tokens.csv.
	dir string
	// authority verifies the server's certificate.
	authority []byte
	// token is the administrator's.
	token string
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

func newPKI(dir string) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	p := &pki{dir: dir, token: fmt.Sprintf("%x", secret)}

	serverCert, serverKey, err := cert.GenerateSelfSignedCertKey("localhost", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		return nil, err
	}
	p.authority = serverCert
	proxyCA, proxyCert, proxyKey, err := frontProxy()
	if err != nil {
		return nil, err
	}
	accountsKey, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		"server.crt": serverCert, "server.key": serverKey,
		"front-proxy-ca.crt": proxyCA, "front-proxy.crt": proxyCert, "front-proxy.key": proxyKey,
		"service-accounts.key": accountsKey,
		"tokens.csv":           []byte(p.token + ",admin,admin,system:masters\n"),
	} {
		if err := os.WriteFile(p.file(name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// frontProxy is the certificate by which an aggregated server knows the kube-apiserver, and its
// authority.
func frontProxy() (authority, certificate, key []byte, err error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	ca, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "front-proxy-ca"}, caKey)
	if err != nil {
		return nil, nil, nil, err
	}
	clientKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "front-proxy-client"},
		NotBefore:    ca.NotBefore,
		NotAfter:     time.Now().AddDate(0, 0, 1),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, clientKey.Public(), caKey)
	if err != nil {
		return nil, nil, nil, err
	}
	issued, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, nil, err
	}
	if authority, err = cert.EncodeCertificates(ca); err != nil {
		return nil, nil, nil, err
	}
	if certificate, err = cert.EncodeCertificates(issued); err != nil {
		return nil, nil, nil, err
	}
	key, err = keyutil.MarshalPrivateKeyToPEM(clientKey)
	return authority, certificate, key, err
}
