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

package images

import (
	"sync"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// silence is for how long a registry that did not answer is not asked again.
const silence = 10 * time.Second

// outages are the registries that did not answer when they were asked last. Each question to
// them can take its whole time, and those that wait for an answer keep others from working: so
// one asks, now and then, for all.
type outages struct {
	mutex sync.Mutex
	hosts map[string]outage
}

type outage struct {
	// err is what the registry failed with; until then nobody else asks.
	err   error
	until time.Time
}

// ask returns nil to whoever may ask the registry, who then tells what it answered.
func (o *outages) ask(host string, now time.Time) error {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	known, down := o.hosts[host]
	if !down {
		return nil
	}
	if now.Before(known.until) {
		// What it was asked then is another snapshot's business, and perhaps another tenant's.
		return result.Wrap(result.RegistryUnavailable, known.err, "registry %s did not answer when it was asked last, less than %s ago", host, silence)
	}
	known.until = now.Add(answerTimeout)
	o.hosts[host] = known
	return nil
}

// answered notes what came of asking. Any answer but that of a registry in trouble ends an outage.
func (o *outages) answered(host string, err error, now time.Time) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if err == nil || result.From(err).Reason != result.RegistryUnavailable {
		delete(o.hosts, host)
		return
	}
	if o.hosts == nil {
		o.hosts = map[string]outage{}
	}
	o.hosts[host] = outage{err: err, until: now.Add(silence)}
}
