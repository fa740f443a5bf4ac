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
	"context"
	"errors"

	"golang.org/x/time/rate"
)

const (
	// requestsPerSecond is how many requests all checks together may send, and how many at once. None has more than a
	// manifest in its answer.
	requestsPerSecond = 25
	// requestsOfACheck is what one check may need: two greetings, where plain HTTP is allowed, a token, the manifest, the
	// configuration, and a dozen layers. What needs more waits a little.
	requestsOfACheck = 17
	// sweepsPerSecond leave room for the checks of resumes.
	sweepsPerSecond = 2
)

// errBusy is that the registry was not asked because it is asked too much already.
var errBusy = errors.New("the registry is asked about too many images at the moment")

// Pace is how fast a registry is asked whether images are there.
type Pace struct {
	requests, sweeps *rate.Limiter
}

// NewPace is the pace of all checks of a process: twenty-five requests a second.
func NewPace() *Pace {
	return &Pace{
		requests: rate.NewLimiter(requestsPerSecond, requestsPerSecond),
		sweeps:   rate.NewLimiter(sweepsPerSecond, 1),
	}
}

// Wait waits for the time of one request. It fails where that is after the end of ctx.
func (p *Pace) Wait(ctx context.Context) error {
	if err := p.requests.Wait(ctx); err != nil {
		return errBusy
	}
	return nil
}

// hasRoom says whether one more check would not have to wait.
func (p *Pace) hasRoom() bool { return p.requests.Tokens() >= requestsOfACheck }
