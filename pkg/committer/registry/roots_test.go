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
	"os"
	"os/exec"
	"testing"
)

// TestPublicRoots runs where the system has no certificates, as in our images.
func TestPublicRoots(t *testing.T) {
	const bare = "TEST_BARE_SYSTEM"
	if os.Getenv(bare) != "" {
		if publicRoots().Equal(x509.NewCertPool()) {
			t.Error("no authority is trusted")
		}
		return
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPublicRoots$")
	again.Env = append(os.Environ(), bare+"=1", "SSL_CERT_FILE="+os.DevNull, "SSL_CERT_DIR="+t.TempDir())
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}
