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

package registry

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// publicRoots are the certificates that the system trusts, or the bundled ones where it
// has none: our images hold nothing but a program. Reading them takes longer than all
// else that a small commit has to compute, so it waits for the first who needs them.
var publicRoots = sync.OnceValue(func() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err == nil && !pool.Equal(x509.NewCertPool()) {
		return pool
	}
	return bundled()
})

func bundled() *x509.CertPool {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		switch {
		case err != nil:
			// One that this Go does not take is one that it would not trust either.
		case root.Constraint != nil:
			pool.AddCertWithConstraint(certificate, root.Constraint)
		default:
			pool.AddCert(certificate)
		}
	}
	return pool
}
