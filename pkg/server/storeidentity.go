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
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// The store has an identity: a random ID in etcd, mirrored in a ConfigMap of the cluster, with a mark
// that counts up. A store that lost its data, or another one, has another ID, and a backup that was
// restored has a mark from before. Serving it would tell every client, the garbage collector and our own
// controller that sandboxes do not exist any more, or are what they were, while their Pods run; so the
// server says why it does not serve instead, until somebody accepts the store.

// Where the ConfigMap keeps the mark.
const (
	storeIDKey       = "storeID"
	storeMarkKey     = "storeMark"
	storeRevisionKey = "storeRevision"
)

// reasonNotAccepted is the reason of the event about a store that is not served.
const reasonNotAccepted = "StoreNotAccepted"

// Bounds of the check: of one attempt, and of the pause between two.
const (
	identityAttempt = 10 * time.Second
	identityMaxWait = 30 * time.Second
)

// storeIdentity makes sure that the store is the one that this cluster knows.
type storeIdentity struct {
	etcd *clientv3.Client
	// key is where etcd has the ID, markKey where it has the count of the mark.
	key, markKey string
	client       kubernetes.Interface
	namespace    string
	acceptNew    bool
	gate         *storeGate
	// unguarded says what the cluster lacks to keep its garbage collector from what belongs to unknown sandboxes.
	unguarded func(ctx context.Context) (missing []string, err error)
	// advance has the next start go on from a higher revision. Nil: the store is not ours to change.
	advance func(revision int64) error
	// end ends the server.
	end   func(error)
	clock clock.WithTicker

	// marked is what was written last, at which revision and when.
	marked   storeMark
	markedAt time.Time
	// took is when the store was taken; nil where nobody has asked yet.
	took *time.Time
}

// confirm tries until the store is confirmed, opens the gate then, and keeps an eye on the store until
// ctx ends. It also goes on after a refusal: somebody may correct the ConfigMap.
func (s *storeIdentity) confirm(ctx context.Context) {
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 1 << 30, Cap: identityMaxWait}
	told := ""
	confirmed := false
	_ = backoff.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		refusal, err := s.attempt(ctx)
		switch {
		case errors.Is(err, errStoreAdvances):
			s.gate.wait(err.Error())
			s.end(err)
			return true, nil
		case err != nil:
			if what := withoutOwnAddress(err).Error(); what != told {
				told = what
				klog.ErrorS(err, "The identity of the store cannot be confirmed yet; trying again")
			}
			s.gate.wait(fmt.Sprintf("the identity of the store is not yet confirmed: %v", err))
			return false, nil
		case refusal != "":
			s.gate.refuse(refusal)
			if refusal != told {
				told = refusal
				klog.ErrorS(nil, "Not serving the API", "reason", refusal)
				s.tell(ctx, reasonNotAccepted, refusal)
			}
			return false, nil
		}
		confirmed = true
		s.gate.open()
		return true, nil
	})
	if confirmed {
		s.follow(ctx)
	}
}

// What is to be done about a store that is refused.
const (
	adviseStore = "Restore the data, or start the server with --accept-new-storage to go on with this store " +
		"(and with --controllers=false to look at it before anything acts on it); until then no Pod is touched"
	adviseRevision = "the resourceVersions of its clients would go back; restore the backup with " +
		"'etcdutl snapshot restore --bump-revision=%d --mark-compacted', then start the server with --accept-new-storage"
)

// errStoreAdvances ends a server whose next start makes the revision of its store higher.
var errStoreAdvances = errors.New("the store was accepted; its revision is made higher than any that clients have seen by a restart")

// attempt looks at the store and marks it.
func (s *storeIdentity) attempt(ctx context.Context) (refusal string, err error) {
	ctx, cancel := context.WithTimeout(ctx, identityAttempt)
	defer cancel()

	// The ConfigMap first: what it says is in etcd by now, whatever other replicas do meanwhile.
	known, configMap, err := s.readConfigMap(ctx)
	if err != nil {
		return "", err
	}
	found, err := s.readEtcd(ctx)
	if err != nil {
		return "", err
	}
	verdict := judgeStore(found.storeMark, known, string(uuid.NewUUID()), s.acceptNew)
	switch {
	case verdict.refusal != "":
		return fmt.Sprintf("%s. %s", verdict.refusal, adviseStore), nil
	case verdict.advanceTo > 0 && s.advance == nil:
		return fmt.Sprintf("the store was accepted, but "+adviseRevision, verdict.advanceTo-found.revision), nil
	case verdict.advanceTo > 0:
		if err := s.advance(verdict.advanceTo); err != nil {
			return "", err
		}
		return "", errStoreAdvances
	}
	if verdict.taken {
		if configMap, refusal, err = s.take(ctx, configMap, verdict.doubted); refusal != "" || err != nil {
			return refusal, err
		}
	} else if err := settles(configMap, s.clock.Now()); err != nil {
		return "", err
	}
	if known.id != "" && known.id != verdict.mark.id || found.count < known.count {
		klog.InfoS("Accepted a store", "store", verdict.mark.id, "mark", verdict.mark.count, "before", known.id, "markBefore", known.count)
	}
	if err = s.mark(ctx, found, verdict.mark, configMap); err == nil && verdict.doubted {
		err = errStoreSettles
	}
	if errors.Is(err, rpctypes.ErrNoSpace) && known.id == found.id {
		// Only who is served can make room.
		klog.ErrorS(err, "The store is full and cannot be marked")
		s.marked, err = found.storeMark, nil
	}
	return "", err
}

// tell leaves an event where an operator looks for it.
func (s *storeIdentity) tell(ctx context.Context, reason, message string) {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: StoreConfigMapName + ".", Namespace: s.namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "ConfigMap", Namespace: s.namespace, Name: StoreConfigMapName,
		},
		Type:           corev1.EventTypeWarning,
		Reason:         reason,
		Message:        message,
		Source:         corev1.EventSource{Component: ServiceName},
		FirstTimestamp: now,
		LastTimestamp:  now,
		Count:          1,
	}
	if _, err := s.client.CoreV1().Events(s.namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
		klog.ErrorS(err, "Cannot record an event", "about", reason)
	}
}
