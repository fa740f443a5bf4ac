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

package expiry

import (
	"time"

	"k8s.io/utils/clock"
)

// Wall is the clock that people set their times by. Go's goes on at an even pace whatever becomes of that, and stands still
// while a machine sleeps: the queue, which looks at the time every ten seconds and asks nobody, sees both.
type Wall struct{ clock.RealClock }

var _ clock.WithTicker = Wall{}

// Now is the time without Go's reading of an even clock, by which it would be compared.
func (Wall) Now() time.Time { return time.Now().Round(0) }

// Since is the time from then to Now.
func (w Wall) Since(then time.Time) time.Duration { return w.Now().Sub(then) }
