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

package answer

import (
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// FirstWait is the first wait of what fails again and again.
	FirstWait = 10 * time.Second
	// LastWait is its longest.
	LastWait = 5 * time.Minute
	// firstPassing is the first wait where the trouble may be over in a moment.
	firstPassing = time.Second
	// spread is how much longer a wait may be where many meet the same trouble at the same time.
	spread = 0.2
)

// Backoff is the wait after so many failures in a row: FirstWait, then twice as long each time, up to LastWait.
func Backoff(failures int32) time.Duration { return double(FirstWait, failures) }

// Wait is how long to wait after an error that was the last of so many failures in a row: as Backoff says where it is
// Final; else from a second on, or as long as the API asks for. Nobody has to wait where it is Ours, but who cannot
// tell (OfCreate) does not wait for longer.
func Wait(err error, failures int32) time.Duration {
	switch Of(err) {
	case Done:
		return 0
	case Final:
		return Backoff(failures)
	}
	wait := double(firstPassing, failures)
	if asked, ok := apierrors.SuggestsClientDelay(err); ok {
		wait = max(wait, time.Duration(asked)*time.Second)
	}
	// A webhook that is away is so for all; when it is back they must not come at once.
	wait += time.Duration(rand.Float64() * spread * float64(wait)) //nolint:gosec // nobody gains by knowing it
	return min(wait, LastWait)
}

func double(first time.Duration, failures int32) time.Duration {
	for i := int32(1); i < failures && first < LastWait; i++ {
		first *= 2
	}
	return min(first, LastWait)
}
