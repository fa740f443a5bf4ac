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

package server

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	// clockSkew is how far the clock of a client may be behind.
	clockSkew = 5 * time.Minute
)

// keyPair is a serving certificate with the authority that issued it, in PEM.
type keyPair struct {
	// authorities are what clients verify with: the issuing one first, then those before it that
	// are still valid, for replicas that serve an older certificate.
	authorities []byte
	// authorityKey belongs to the first authority.
	authorityKey []byte
	certificate  []byte
	key          []byte
}

// renewed returns the pair as it shall be now, and whether that is another one: a new serving
// certificate when a third of its life is left, a new authority when it could not outlive that.
func (p keyPair) renewed(now time.Time, names []string) (keyPair, bool, error) {
	authority, authorityKey, err := p.issuer(now)
	if err == nil && p.certificateGood(now, names, authority) {
		return p, false, nil
	}
	if err != nil {
		// Missing, unreadable or too old.
		if p, authority, authorityKey, err = p.withNewAuthority(now); err != nil {
			return keyPair{}, false, fmt.Errorf("making a certificate authority: %w", err)
		}
	}
	p.certificate, p.key, err = issue(now, names, authority, authorityKey)
	if err != nil {
		return keyPair{}, false, fmt.Errorf("making a serving certificate: %w", err)
	}
	return p, true, nil
}

// issuer returns the authority, or why it cannot issue.
func (p keyPair) issuer(now time.Time) (*x509.Certificate, crypto.Signer, error) {
	certificates, err := certutil.ParseCertsPEM(p.authorities)
	if err != nil {
		return nil, nil, err
	}
	key, err := keyutil.ParsePrivateKeyPEM(p.authorityKey)
	if err != nil {
		return nil, nil, err
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("the key of the authority is a %T", key)
	}
	authority := certificates[0]
	if !signer.PublicKey.Equal(authority.PublicKey) {
		return nil, nil, fmt.Errorf("the key is not the authority's")
	}
	if authority.NotAfter.Before(now.Add(certificateLife)) {
		return nil, nil, fmt.Errorf("the authority ends on %s", authority.NotAfter)
	}
	return authority, signer, nil
}

func (p keyPair) certificateGood(now time.Time, names []string, authority *x509.Certificate) bool {
	certificates, err := certutil.ParseCertsPEM(p.certificate)
	if err != nil {
		return false
	}
	key, err := keyutil.ParsePrivateKeyPEM(p.key)
	if err != nil {
		return false
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	leaf := certificates[0]
	return ok && signer.PublicKey.Equal(leaf.PublicKey) &&
		leaf.CheckSignatureFrom(authority) == nil &&
		slices.Equal(leaf.DNSNames, names) &&
		now.Add(certificateLife/3).Before(leaf.NotAfter)
}

// withNewAuthority puts a new authority in front of those that are still valid.
func (p keyPair) withNewAuthority(now time.Time) (keyPair, *x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, nil, nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return keyPair{}, nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// Distinct subjects: a verifier that has both would otherwise try the wrong one first.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("%s-ca-%d", ServiceName, now.Unix())},
		NotBefore:             now.Add(-clockSkew).UTC(),
		NotAfter:              now.Add(authorityLife).UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return keyPair{}, nil, nil, err
	}
	authority, err := x509.ParseCertificate(der)
	if err != nil {
		return keyPair{}, nil, nil, err
	}
	authorities := []*x509.Certificate{authority}
	if before, err := certutil.ParseCertsPEM(p.authorities); err == nil {
		for _, old := range before {
			if now.Before(old.NotAfter) {
				authorities = append(authorities, old)
			}
		}
	}
	if p.authorities, err = certutil.EncodeCertificates(authorities...); err != nil {
		return keyPair{}, nil, nil, err
	}
	if p.authorityKey, err = keyutil.MarshalPrivateKeyToPEM(key); err != nil {
		return keyPair{}, nil, nil, err
	}
	return p, authority, key, nil
}

func issue(now time.Time, names []string, authority *x509.Certificate, authorityKey crypto.Signer) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: names[0]},
		DNSNames:     names,
		NotBefore:    now.Add(-clockSkew).UTC(),
		NotAfter:     now.Add(certificateLife).UTC(),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority, private.Public(), authorityKey)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	if certificate, err = certutil.EncodeCertificates(leaf); err != nil {
		return nil, nil, err
	}
	key, err = keyutil.MarshalPrivateKeyToPEM(private)
	return certificate, key, err
}

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}
