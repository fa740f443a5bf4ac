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
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
)

// A store that is taken may have been preceded by one that knew more: sandboxes that claims, Services and whatever else
// people have made name as their owner. To the garbage collector these owners are gone as soon as it sees a list without them;
// it asks nobody again, and forgets that as little when the store with them comes back. So the ConfigMap says, before anything
// is served, when the store was taken, and from then on of which older owners it is certain that they go. A policy
// (sandbox-dependents-not-collected in artifacts/base/collector.yaml) keeps whatever else is older.

// Where the ConfigMap says so; the policy reads them. Whoever has looked through what was left may remove both, as docs/ownership.md says.
const (
	storeTakenKey    = "storeTaken"
	storeReleasedKey = "storeReleased"
)

const (
	// uidBeginning is how much of a UID is written down: 48 of its bits.
	uidBeginning = 13
	// maxReleased bounds the beginnings, in bytes, for a ConfigMap holds 1 MiB. What belongs to the rest is kept.
	maxReleased = 900 << 10
	// settleTime is how long a store that was accepted is not served yet: until every kube-apiserver has heard of what
	// the ConfigMap says.
	settleTime = 5 * time.Second
)

// errStoreSettles is what a store that was just accepted waits for.
var errStoreSettles = errors.New("the store was accepted just now, and is served when the admission policies have heard of that")

// adviseGuard is what is to be done where the collector is not kept from anything.
const adviseGuard = "the store was accepted, but the cluster lacks %s, without which its garbage collector would delete what belongs to sandboxes that " +
	"this store does not know. Apply artifacts/base/collector.yaml; then the store is served by itself"

// take has the ConfigMap say it of a store that is taken, or says why it is not taken yet. It comes before the mark: with that
// the store is known, and nobody would write this any more.
func (s *storeIdentity) take(ctx context.Context, configMap *corev1.ConfigMap, doubted bool) (_ *corev1.ConfigMap, refusal string, err error) {
	from := s.clock.Now()
	if doubted {
		missing, err := s.unguarded(ctx)
		if err != nil {
			return nil, "", err
		}
		if len(missing) > 0 {
			return nil, fmt.Sprintf(adviseGuard, strings.Join(missing, ", ")), nil
		}
		from = from.Add(settleTime)
	}
	configMap, err = s.write(ctx, configMap, map[string]string{storeTakenKey: from.UTC().Format(time.RFC3339), storeReleasedKey: ""})
	return configMap, "", err
}

// takenAt is when the store was taken that the ConfigMap, or nil, tells of; zero where none was.
func takenAt(configMap *corev1.ConfigMap) time.Time {
	if configMap == nil {
		return time.Time{}
	}
	taken, err := time.Parse(time.RFC3339, configMap.Data[storeTakenKey])
	if err != nil {
		return time.Time{} // nobody has taken it, or somebody has written what no server would
	}
	return taken
}

// settles is an error while a store that was accepted, by whichever replica, is not to be served.
func settles(configMap *corev1.ConfigMap, now time.Time) error {
	if taken := takenAt(configMap); taken.After(now) && !taken.After(now.Add(2*settleTime)) {
		return errStoreSettles
	}
	return nil
}

// release notes of sandboxes and snapshots that go, with when they were made, that what belongs to them may go as well. Of
// those that are newer than the store nobody has to know.
func (s *storeIdentity) release(ctx context.Context, going map[types.UID]time.Time) error {
	if s.took != nil && !slices.ContainsFunc(slices.Collect(maps.Values(going)), s.took.After) {
		return nil
	}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		ctx, cancel := context.WithTimeout(ctx, identityAttempt)
		defer cancel()
		_, configMap, err := s.readConfigMap(ctx)
		if err != nil || configMap == nil {
			return err
		}
		taken, before := takenAt(configMap), configMap.Data[storeReleasedKey]
		s.took = &taken // by another server at the earliest it is taken anew
		after := released(before, taken, going)
		if after == before {
			return nil
		}
		_, err = s.write(ctx, configMap, map[string]string{storeReleasedKey: after})
		return err
	})
}

// released are the beginnings of UIDs that were noted before, and of those that go and are older than the store.
func released(before string, taken time.Time, going map[types.UID]time.Time) string {
	all := strings.Fields(before)
	for uid, made := range going {
		if len(uid) < uidBeginning || !made.Before(taken) || strings.Contains(before, string(uid[:uidBeginning])) {
			continue
		}
		if (len(all)+1)*(uidBeginning+1) > maxReleased {
			klog.InfoS("The ConfigMap of the store has no room for more owners that have gone; what belongs to them is not collected", "noted", len(all))
			break
		}
		all = append(all, string(uid[:uidBeginning]))
	}
	return strings.Join(all, " ")
}
